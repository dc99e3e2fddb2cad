"""A device's way into a fleet, with a token: pin, ask, write the state directory, be seen running; and out again.

clock      what time it is at least, on a machine whose clock may say 1970
source     where a token comes from: option, file, environment, join.toml on the boot partition
inventory  what a device says of itself, and its id
line       one question to the issuer, over connections that were checked before a byte of MQTT
folder     DIR/swarm: whole or as it was, whenever the power goes
seen       the first word with the new certificate, by the daemon or for it
run        all of it in order
door       the daemon's side: in and out of a cell while it runs, and joining by itself
"""
