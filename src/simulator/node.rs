//! What a v2 call is answered with: the node, the refusal, the signed envelope around them.
use std::sync::Arc;

use rsa::RsaPrivateKey;
use serde_json::Value;

use super::{charset::Charset, error::SimulatorError, sign::SignType};

/// The members of a reply's node, in the order they are written.
#[derive(Clone, Debug, Default)]
pub(super) struct Node(Vec<(String, Value)>);

impl Node {
    /// Starts a node without `code`, as `alipay.system.oauth.token` answers.
    pub(super) fn bare() -> Self {
        Self::default()
    }

    /// Starts a node that says `10000`.
    pub(super) fn success() -> Self {
        Self::bare().with("code", "10000").with("msg", "Success")
    }

    /// Adds one member.
    pub(super) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.push((name.to_owned(), value.into()));
        self
    }

    /// Writes the node as JSON text.
    pub(super) fn text(&self) -> String {
        self.text_without(&[])
    }

    /// Writes the node as v3 has it, where the status says whether it is a success.
    pub(super) fn v3_text(&self) -> String {
        self.text_without(&["code", "msg"])
    }

    fn text_without(&self, left_out: &[&str]) -> String {
        let members: Vec<_> = self
            .0
            .iter()
            .filter(|(name, _)| !left_out.contains(&name.as_str()))
            .map(|(name, value)| format!("{}:{value}", Value::from(name.as_str())))
            .collect();
        format!("{{{}}}", members.join(","))
    }
}

/// Tells whether the gateway knew the app when it refused, and so whether it signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signed {
    /// The reply carries `sign`.
    Yes,
    /// The app was not identified: no `sign`.
    No,
}

/// An answer with another `code` than 10000.
///
/// Protocol: 公共错误码 (common error codes).
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) code: &'static str,
    pub(super) sub_code: String,
    pub(super) sub_msg: String,
    pub(super) signed: Signed,
}

impl Refusal {
    /// Makes a signed refusal.
    pub(super) fn new(
        code: &'static str,
        sub_code: impl Into<String>,
        sub_msg: impl Into<String>,
    ) -> Self {
        Self {
            code,
            sub_code: sub_code.into(),
            sub_msg: sub_msg.into(),
            signed: Signed::Yes,
        }
    }

    /// Makes a 40004 of a business API.
    pub(super) fn business(sub_code: &str, sub_msg: &str) -> Self {
        Self::new("40004", sub_code, sub_msg)
    }

    /// Makes a 40002 that names a wrong parameter.
    pub(super) fn parameter(sub_msg: impl Into<String>) -> Self {
        Self::new("40002", "isv.invalid-parameter", sub_msg)
    }

    /// Refuses a method that does not exist.
    pub(super) fn unknown_method() -> Self {
        Self::new("40002", "isv.invalid-method", "不存在的方法名")
    }

    /// Refuses because the simulator itself failed.
    pub(super) fn broken(error: SimulatorError) -> Self {
        Self::new("20000", "aop.unknow-error", error.to_string())
    }

    /// Refuses a call that should have been encrypted.
    pub(super) fn plain_call() -> Self {
        let sub_code = "isv.decryption-error-missing-encrypt-type";
        Self::new("40001", sub_code, "解密出错，缺少加密类型参数encrypt_type")
    }

    /// Takes the signature away: the app was not identified yet.
    pub(super) fn unsigned(mut self) -> Self {
        self.signed = Signed::No;
        self
    }

    /// Writes the refusal's node.
    pub(super) fn node(&self) -> Node {
        Node::bare()
            .with("code", self.code)
            .with("msg", msg(self.code))
            .with("sub_code", self.sub_code.as_str())
            .with("sub_msg", self.sub_msg.as_str())
    }
}

fn msg(code: &str) -> &'static str {
    match code {
        "20000" => "Service Currently Unavailable",
        "20001" => "Insufficient Token Permissions",
        "40001" => "Missing Required Arguments",
        "40002" => "Invalid Arguments",
        "40003" => "Insufficient Conditions",
        "40005" => "Call Limited",
        "40006" => "Insufficient Permissions",
        _ => "Business Failed",
    }
}

/// The root under which a method's node stands.
pub(super) fn root(method: &str) -> String {
    format!("{}_response", method.replace('.', "_"))
}

/// What a reply or notification is signed with, and the charset whose bytes are signed.
#[derive(Clone)]
pub(super) struct Signer {
    pub(super) key: Arc<RsaPrivateKey>,
    /// The certificate of that key; none in key mode.
    pub(super) alipay_cert_sn: Option<String>,
    pub(super) sign_type: SignType,
    pub(super) charset: Charset,
}

impl Signer {
    /// Signs what v3 says, which is always RSA2 and UTF-8.
    pub(super) fn sign_v3(&self, content: &str) -> String {
        SignType::Rsa2.sign(&self.key, content.as_bytes())
    }

    /// Signs a text that [`Charset::spell_json`] has fitted to the charset.
    pub(super) fn sign(&self, text: &str) -> String {
        let bytes = self.charset.encode(text).unwrap_or_default();
        self.sign_type.sign(&self.key, &bytes)
    }
}
