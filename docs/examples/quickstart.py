"""An agent from Python, in ten lines: built, signed and run in a jail of its own, then given other weights.

    python docs/examples/quickstart.py

The same lines work in a notebook.  Needs the extra `build` (numpy).
"""

from edgeswarm import Network, Runtime

with Runtime() as runtime:
    agent = runtime.spawn(inputs=4, hidden=[8], outputs=2, output_activation="softmax", seed=1)
    answer = agent.process_input([0.1, 0.2, 0.3, 0.4])
    print("answer", [round(value, 4) for value in answer.values])
    agent.update_weights(Network.random([4, 8, 2], output_activation="softmax", seed=2))
    answer = agent.process_input([0.1, 0.2, 0.3, 0.4])
    print("after other weights", [round(value, 4) for value in answer.values])
    about = agent.get_metadata()
    print(about["name"], about["version"], about["status"], "lost", runtime.status()["totals"]["lost"])
