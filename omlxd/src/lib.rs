//! omlxd
