"""The MQTT driver: paho-mqtt 2 inside the asyncio loop, in layers.

transport   what the swarm uses: priorities, two connections, fail-over, subscriptions, offline storage
lane        one connection that is held up: reconnects, subscriptions made again, a bounded queue
link        one paho client on one connected socket: packets in, packets out; connack: what CONNECT is answered
stream      a non-blocking socket read in large pieces and written in bursts
brokers     where brokers are, and which one is tried next
queue, matcher, properties   pure: what waits, who is told, what MQTT 5 adds to a message

paho costs 13 MB of memory: only `link` and what stands on it import it, so `brokers` and `queue` stay cheap.
"""
