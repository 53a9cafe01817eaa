//! Messages between shim, agent, relay and pager, and the socket that carries them with file descriptors
