//! Servers of others.
