"""EdgeSwarm: agent networks as jailed WebAssembly kernels on edge devices."""
