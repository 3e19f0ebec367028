//! The environment variables that child processes do not get: those with a secret's name, and those with a secret in their value.
//!
//! Reads the environment of this process and never changes it. Callers remove the withheld variables from their children.

use std::ffi::OsString;
use std::sync::{Mutex, PoisonError};

/// Shorter secrets, in bytes, are not searched for in other values: they would match by chance.
pub(crate) const MIN_SECRET_LENGTH: usize = 6;

/// The secrets read so far. No child gets a variable that contains one.
static READ_SECRETS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Reads a variable whose value is a secret, whatever its name. `None` if it is unset, empty or not UTF-8.
pub(crate) fn read_secret(name: &str) -> Option<String> {
    let value = std::env::var(name).ok()?;
    let value = value.trim();
    if value.is_empty() {
        return None;
    }
    // A panic while the lock is held leaves the list valid.
    let mut read = READ_SECRETS.lock().unwrap_or_else(PoisonError::into_inner);
    if value.len() >= MIN_SECRET_LENGTH && !read.iter().any(|known| known == value) {
        read.push(value.to_owned());
    }
    Some(value.to_owned())
}

/// The names of the variables that no child process may get.
pub(crate) fn withheld_variables() -> Vec<OsString> {
    let read = READ_SECRETS.lock().unwrap_or_else(PoisonError::into_inner);
    let is_withheld = |(name, value): &(OsString, OsString)| {
        let (name, value) = (name.to_string_lossy(), value.to_string_lossy());
        is_secret_name(&name) || read.iter().any(|secret| value.contains(secret))
    };
    let withheld = std::env::vars_os().filter(is_withheld);
    withheld.map(|(name, _)| name).collect()
}

/// Whether a variable of this name is likely to have a secret as its value. A child process gets it only if the config names it.
pub(crate) fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    let parts = name.split(['_', '-', '.']);
    let mut is_secret = false;
    for part in parts {
        is_secret |= matches!(
            part,
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
