//! Who may run a pod: the decisions about log, seal, fence and garbage as state machines without I/O
