//! Memory out of processes: reading, digests, the pipeline into packs
