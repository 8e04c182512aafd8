//! The signature algorithms of the protocol, by their names on the wire.

use std::{fmt, str::FromStr};

use super::error::{ProtocolError, shorten};

/// Names a signature algorithm as `sign_type` does.
///
/// Protocol: 公共参数, `sign_type`. `SM2` exists in the Java SDK alone and is refused by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SignType {
    /// RSASSA-PKCS1-v1_5 with SHA-1, for apps made before 2018.
    Rsa,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rsa2,
}

impl SignType {
    /// Gives the name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rsa => "RSA",
            Self::Rsa2 => "RSA2",
        }
    }
}

impl fmt::Display for SignType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for SignType {
    type Err = ProtocolError;

    fn from_str(text: &str) -> Result<Self, ProtocolError> {
        match text {
            "RSA" => Ok(Self::Rsa),
            "RSA2" => Ok(Self::Rsa2),
            other => Err(ProtocolError::SignTypeUnknown {
                found: shorten(other),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_wire() {
        for sign_type in [SignType::Rsa, SignType::Rsa2] {
            assert_eq!(sign_type.to_string().parse(), Ok(sign_type));
        }
    }

    #[test]
    fn other_names_are_refused() {
        for name in ["SM2", "rsa2", "", " RSA2", "HMAC"] {
            let error = name.parse::<SignType>().unwrap_err();
            assert_eq!(error.kind(), "sign-type-unknown", "{name}");
        }
    }
}
