//! API keys: read from the environment once, sent as a header, and never shown.
//!
//! A key never reaches a file, a log, a child process or a prompt. Text from a server is scrubbed of keys before any other use.

use std::borrow::Cow;
use std::fmt;

use serde::{Serialize, Serializer};

use super::models::ModelSettings;
use crate::base::environment;

/// A value that prints as `***` wherever it is shown.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

/// Replaces a secret in text.
const REDACTED: &str = "***";

impl Secret {
    /// The value of an environment variable; `None` if it is unset, empty or not Unicode.
    pub(crate) fn from_environment(name: &str) -> Option<Self> {
        environment::read_secret(name).map(Self)
    }

    /// The value itself, for the header that needs it.
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(REDACTED)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(REDACTED)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(REDACTED)
    }
}

/// All secrets of a run, for scrubbing text.
#[derive(Clone, Debug, Default)]
pub(super) struct Secrets(Vec<Secret>);

impl Secrets {
    /// The secrets that the models' settings name and the environment has.
    pub(super) fn from_models(models: &[ModelSettings]) -> Self {
        let mut secrets = Self::default();
        for model in models {
            let headers = model
                .headers
                .values()
                .filter_map(|value| value.strip_prefix('$'));
            for name in headers.chain(model.key_env.as_deref()) {
                if let Some(secret) = Secret::from_environment(name) {
                    secrets.add(&secret);
                }
            }
        }
        secrets
    }

    fn add(&mut self, secret: &Secret) {
        if secret.0.len() >= environment::MIN_SECRET_LENGTH && !self.0.contains(secret) {
            self.0.push(secret.clone());
        }
    }

    /// The text with every secret replaced.
    pub(super) fn scrub<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut text = Cow::Borrowed(text);
        for secret in &self.0 {
            if text.contains(secret.reveal()) {
                text = Cow::Owned(text.replace(secret.reveal(), REDACTED));
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_is_redacted_when_printed() {
        let secret = Secret("sk-planted".to_owned());
        assert_eq!(format!("{secret} {secret:?}"), "*** ***");
        assert_eq!(serde_json::to_string(&secret).unwrap(), "\"***\"");
        let mut secrets = Secrets::default();
        secrets.add(&secret);
        assert_eq!(
            secrets.scrub("wrong key sk-planted, sk-plant"),
            "wrong key ***, sk-plant"
        );
        assert!(!format!("{secrets:?}").contains("planted"));
    }
}
