//! The writable layer and volumes: walk, index, restore
