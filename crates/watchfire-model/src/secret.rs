//! A secret of the configuration.

use std::path::{Path, PathBuf};

use serde::Deserialize;

/// A password, a token, an address that holds one: as a text, or as the name of the file that it stands in. The file is
/// read whenever the secret is wanted, so that one that is changed there is in force with the next connection. Printing
/// it for debugging hides it.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "Given")]
pub struct Secret(Kept);

#[derive(Clone, PartialEq, Eq)]
enum Kept {
    Text(String),
    File(PathBuf),
}

/// As it stands in a configuration: `"text"` or `{ file = "/run/secrets/name" }`.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a text or { file = \"PATH\" }")]
enum Given {
    Text(String),
    File(InFile),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InFile {
    file: PathBuf,
}

/// The file of a secret cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", file.display())]
pub struct SecretError {
    /// The file.
    pub file: PathBuf,
    /// Why not.
    pub source: std::io::Error,
}

impl Secret {
    /// One that stands in a file.
    pub fn in_file(file: impl Into<PathBuf>) -> Self {
        Self(Kept::File(file.into()))
    }

    /// The secret as it is now, for whom it is meant for. Of a file without the end of its last line.
    pub fn read(&self) -> Result<String, SecretError> {
        match &self.0 {
            Kept::Text(text) => Ok(text.clone()),
            Kept::File(file) => {
                let mut text = std::fs::read_to_string(file)
                    .map_err(|source| SecretError { file: file.clone(), source })?;
                text.truncate(text.trim_end_matches(['\r', '\n']).len());
                Ok(text)
            }
        }
    }

    /// The file that it stands in, if it does.
    pub fn file(&self) -> Option<&Path> {
        match &self.0 {
            Kept::Text(_) => None,
            Kept::File(file) => Some(file),
        }
    }

    /// Whether nothing is given.
    pub fn is_empty(&self) -> bool {
        matches!(&self.0, Kept::Text(text) if text.is_empty())
    }
}

impl Default for Secret {
    fn default() -> Self {
        Self(Kept::Text(String::new()))
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(Kept::Text(text.into()))
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(Kept::Text(text))
    }
}

impl From<Given> for Secret {
    fn from(given: Given) -> Self {
        match given {
            Given::Text(text) => Self(Kept::Text(text)),
            Given::File(InFile { file }) => Self(Kept::File(file)),
        }
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Section {
        password: Secret,
    }

    fn given(json: &str) -> Result<Secret, String> {
        serde_json::from_str(json).map(|Section { password }| password).map_err(|error| error.to_string())
    }

    #[test]
    fn a_secret_is_a_text_or_stands_in_a_file() {
        assert_eq!(given(r#"{"password":"s3cret"}"#).unwrap().read().unwrap(), "s3cret");
        let file = std::env::temp_dir().join(format!("watchfire-secret-{}", std::process::id()));
        std::fs::write(&file, "old\n").unwrap();
        let json = serde_json::json!({ "password": { "file": file } }).to_string();
        let secret = given(&json).unwrap();
        assert_eq!(secret, Secret::in_file(&file));
        assert_eq!(secret.read().unwrap(), "old");
        std::fs::write(&file, "new line\r\n").unwrap();
        assert_eq!(secret.read().unwrap(), "new line");
        std::fs::remove_file(&file).unwrap();
        let said = secret.read().unwrap_err().to_string();
        assert!(said.contains("watchfire-secret-"), "{said}");
    }

    #[test]
    fn what_is_neither_is_refused_and_nothing_is_printed() {
        for json in [r#"{"password":7}"#, r#"{"password":{"file":"a","b":"s3cret"}}"#] {
            let said = given(json).unwrap_err();
            assert!(said.contains("a text or { file") && !said.contains("s3cret"), "{said}");
        }
        assert!(!format!("{:?}", Secret::from("s3cret")).contains("s3cret"));
    }
}
