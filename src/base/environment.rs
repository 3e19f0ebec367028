//! The environment as children see it: without what looks like a secret, and without what was read as one.
//!
//! Changes nothing in this process's own.

use std::ffi::OsString;
use std::sync::{Mutex, PoisonError};

/// A value shorter than this is not looked for within others: it would be found where it is not.
pub(crate) const MIN_SECRET_LENGTH: usize = 6;

/// What was read as a secret, so that no child is given it under another name.
static READ_SECRETS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// The value of a variable that is a secret whatever its name; `None` where it is unset, empty or no text.
pub(crate) fn read_secret(name: &str) -> Option<String> {
    let value = std::env::var(name).ok()?;
    let value = value.trim();
    if value.is_empty() {
        return None;
    }
    // Nothing is left half done under this lock.
    let mut read = READ_SECRETS.lock().unwrap_or_else(PoisonError::into_inner);
    if value.len() >= MIN_SECRET_LENGTH && !read.iter().any(|known| known == value) {
        read.push(value.to_owned());
    }
    Some(value.to_owned())
}

/// The variables that no child is to be given.
pub(crate) fn withheld_variables() -> Vec<OsString> {
    let read = READ_SECRETS.lock().unwrap_or_else(PoisonError::into_inner);
    let is_withheld = |(name, value): &(OsString, OsString)| {
        let (name, value) = (name.to_string_lossy(), value.to_string_lossy());
        is_secret_name(&name) || read.iter().any(|secret| value.contains(secret))
    };
    let withheld = std::env::vars_os().filter(is_withheld);
    withheld.map(|(name, _)| name).collect()
}

/// Whether an environment variable of this name is likely to hold a secret. No child process is given it unless its config
/// says so by name.
pub(crate) fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    let words = name.split(['_', '-', '.']);
    let mut is_secret = false;
    for word in words {
        is_secret |= matches!(
            word,
            "KEY"
                | "KEYS"
                | "APIKEY"
                | "TOKEN"
                | "TOKENS"
                | "SECRET"
                | "SECRETS"
                | "PASSWORD"
                | "PASSWD"
                | "PASSPHRASE"
                | "CREDENTIAL"
                | "CREDENTIALS"
                | "COOKIE"
                | "AUTH"
                | "AUTHORIZATION"
        );
    }
    is_secret
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_names_are_recognized() {
        for name in [
            "OPENAI_API_KEY",
            "HF_TOKEN",
            "AWS_SECRET_ACCESS_KEY",
            "PGPASSWORD_PASSWORD",
            "my-api.key",
            "ANTHROPIC_AUTH_TOKEN",
        ] {
            assert!(is_secret_name(name), "{name}");
        }
        for name in [
            "PATH",
            "HOME",
            "KEYBOARD",
            "TOKENIZERS_PARALLELISM",
            "MONKEY",
            "SSH_AGENT_PID",
        ] {
            assert!(!is_secret_name(name), "{name}");
        }
    }
}
