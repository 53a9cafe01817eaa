//! Memory into processes: page map look-up, userfaultfd, placement, lanes
