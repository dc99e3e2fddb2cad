"""How the daemon is installed: systemd, OpenRC, procd, plain."""
