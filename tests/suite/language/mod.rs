//! CUDA C++ on the CPU device: small programs run on the real device, and their results are compared with values computed here
//! independently.

mod conversions;
mod features;
mod integers;
mod library;
mod run;
