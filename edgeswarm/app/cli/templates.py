"""What `agent new` writes.  Each is loaded and built by a test; @NAME@ is the agent's name, @DIR@ its folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Template:
    """files: path in the new folder -> text.  build: options of `agent build`.  hint: what is left to do."""

    files: Mapping[str, str]
    build: str
    hint: str


_HEAD = """\
# An agent: rows of numbers from sources go through a small neural net in a jail; its answers become decisions.
# Every key is in docs/agent-file.md.  What is commented out shows the default or another choice.
version: "1.0"                # of the file format
name: @NAME@
description: ""
agent_version: "1.0.0"        # count it up for `edgeswarm agent swap`
"""

_TAIL = """\

# Where answers go.  `when: decision_changed` leaves out those that change nothing.
  sinks:
    - {type: socket, name: @NAME@}                            # RUNTIME/@NAME@.sock, for several readers
    - {type: stdout, when: decision_changed}
#   - {type: jsonl, path: @NAME@.jsonl, rotate_mb: 10, keep: 3}  # needs the capability file_sink
#   - {type: exec, command: [logger, -t, @NAME@]}                # needs the capability exec_sink

# What it may do outside its jail: exec_source, exec_sink, file_source, file_sink.
capabilities: []

resources:
  limits: {memory_mb: 64, cpu_cores: 1.0}                     # the kernel's memory at most
  requirements: {minimum_memory_mb: 1}                        # a device with less refuses the agent

sandbox: strict                                               # policy of its jail
isolation: shared                                             # own-jail: with no other agent
# memory: {width: 4, checkpoint_s: 10}                        # the last 4 outputs come back as the last 4 inputs

supervision:
  strategy: one_for_one                                       # one_for_all, rest_for_one: with its network
  restarts_max: 5
  within_s: 60

kernel:
  mode: fast                                                  # deterministic: the same bits on every machine
  batch_max: 64                                               # rows of one call at most
  deadline_ms: 1000
"""

THRESHOLD = Template(
    files={
        "agent.yaml": _HEAD
        + """\

# The net: one layer, score = 0.8 * cpu / 100 + 0.2 * memory / 100 (weights.json).
neural_config:
  input_size: 2                                               # values of a frame: rows of the window x their width
  output_size: 1
  hidden_layers: []
  output_activation: linear

wiring:
  sources:
    - {type: vitals, rate_hz: 5.0, fields: [cpu_percent, memory_percent]}
#   - {type: csv, path: rows.csv, columns: [cpu, memory], speed: 0}   # a replay; needs the capability file_source
  window: {rows: 1, hop: 1}
  normalize: {method: none}
  score: {type: value, index: 0}
  decision:
    type: hysteresis                                          # none, argmax, threshold, hysteresis, change
    high: 0.7                                                 # flagged from here
    low: 0.5                                                  # until here
    hold: 2                                                   # this many in a row
    labels: [calm, busy]
  emit: score                                                 # what agents that read this one get
"""
        + _TAIL,
        "weights.json": """\
{"layers": [{"weights": [[0.008], [0.002]], "bias": [0.0], "activation": "linear"}]}
""",
    },
    build="--weights @DIR@/weights.json",
    hint="It runs as it is: change the weights in weights.json and the bounds in agent.yaml.",
)

AUTOENCODER = Template(
    files={
        "agent.yaml": _HEAD
        + """\

# The net squeezes a window through 6 values and gives it back; what it cannot give back is unusual.
neural_config:
  input_size: 32                                              # 8 rows x 4 values
  output_size: 32
  hidden_layers: [16, 6, 16]
  activation_function: tanh
  output_activation: linear

wiring:
  sources:
    - type: vitals
      rate_hz: 10.0
      fields: [cpu_percent, memory_percent, load1, net_rx_mbps]
      queue: {policy: drop_oldest, rows: 256}                 # block, drop_oldest, latest_only
  window: {rows: 8, hop: 1}                                   # oldest row first
  normalize:                                                  # learnt on the device's own first 100 rows
    method: zscore                                            # none, fixed, zscore, minmax
    warmup_rows: 100
    std_min: [1.0, 0.5, 0.05, 0.1]                            # a quiet start must not make a twitch an anomaly
    clip: 8.0
  score: {type: reconstruction_error}                         # mean squared (frame - answer)
  decision: {type: hysteresis, high: 4.0, low: 2.0, hold: 3, labels: [normal, anomaly]}
  emit: residual
"""
        + _TAIL,
    },
    build="--random-seed 1",
    hint="Random weights show that everything works; train the net, save w0, b0, w1, ... with numpy.savez, and build\n"
    "with --weights FILE.npz instead.",
)

CLASSIFIER = Template(
    files={
        "agent.yaml": _HEAD
        + """\

neural_config:
  input_size: 64
  output_size: 3
  hidden_layers: [32]
  activation_function: relu
  output_activation: softmax

wiring:
  sources:
    - {type: api, width: 64}                                  # rows come from a program: Agent.process_input
#   - {type: jsonl, fields: [a, b, c]}                        # or as JSON lines on standard input
  window: {rows: 1, hop: 1}
  normalize: {method: none}                                   # fixed: mean and std of the training data
# normalize: {method: fixed, mean: [0.1, ...], std: [1.2, ...]}
  score: {type: max}
  decision: {type: argmax, labels: [first, second, third]}
  emit: output
"""
        + _TAIL,
    },
    build="--random-seed 1",
    hint="Random weights show that everything works; train the net (scikit-learn: model.from_sklearn, model.save_npz)\n"
    "and build with --weights FILE.npz instead.",
)

TEMPLATES: dict[str, Template] = {"threshold": THRESHOLD, "autoencoder": AUTOENCODER, "classifier": CLASSIFIER}
