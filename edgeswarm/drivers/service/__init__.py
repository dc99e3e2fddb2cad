"""How the supervisor becomes a service: systemd, OpenRC, procd (OpenWrt), or a script with a pid file.

`plan.make` decides what an installation consists of, as data; `perform` writes it, below `/` or below an image's root,
and notes each file with its hash; `remove` takes away what that note names and nobody has changed since.  The units and
scripts are those of `firmware_configs/`, with the paths replaced where an installation has others.  `manager` asks the
service manager that is there, `prefix` is where a bundle keeps its versions.
"""
