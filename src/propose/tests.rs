//! The operators over all shipped kernels.

use super::*;
