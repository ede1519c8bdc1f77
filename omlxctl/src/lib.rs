//! omlxctl
