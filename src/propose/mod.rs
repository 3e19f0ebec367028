//! How candidates are made without a model.
mod edit;
pub mod mutate;
