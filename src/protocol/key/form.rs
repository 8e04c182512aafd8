//! In which form a key was written, whatever its label says.

use rsa::{
    pkcs1,
    pkcs8::{self, der::Decode, spki::SubjectPublicKeyInfoRef},
};

use super::text;

/// Tells the form that a key has, and the label it came under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyForm {
    content: Content,
    label: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Pkcs1,
    Pkcs1Public,
    Pkcs8,
    Spki,
}

impl KeyForm {
    /// Looks at the first key of a text; `None` if there is none.
    #[must_use]
    pub fn of(text: &str) -> Option<Self> {
        let blocks = text::blocks(text, "a key").ok()?;
        let block = blocks.into_iter().next()?;
        let der = block.der.as_slice();
        let content = if pkcs8::PrivateKeyInfo::from_der(der).is_ok() {
            Content::Pkcs8
        } else if pkcs1::RsaPrivateKey::from_der(der).is_ok() {
            Content::Pkcs1
        } else if SubjectPublicKeyInfoRef::from_der(der).is_ok() {
            Content::Spki
        } else if pkcs1::RsaPublicKey::from_der(der).is_ok() {
            Content::Pkcs1Public
        } else {
            return None;
        };
        Some(Self {
            content,
            label: block.label,
        })
    }

    /// Names the form.
    #[must_use]
    pub fn describe(&self) -> &'static str {
        match self.content {
            Content::Pkcs1 => "a PKCS#1 private key",
            Content::Pkcs1Public => "a PKCS#1 public key",
            Content::Pkcs8 => "a PKCS#8 private key",
            Content::Spki => "a SubjectPublicKeyInfo public key",
        }
    }

    /// Gives the PEM label if it belongs to another form; bare base64 has none.
    #[must_use]
    pub fn wrong_label(&self) -> Option<&str> {
        let right = match self.content {
            Content::Pkcs1 => "RSA PRIVATE KEY",
            Content::Pkcs1Public => "RSA PUBLIC KEY",
            Content::Pkcs8 => "PRIVATE KEY",
            Content::Spki => "PUBLIC KEY",
        };
        (!self.label.is_empty() && self.label != right).then_some(self.label.as_str())
    }
}
