//! Prompts from questions, and what must never be in one.
