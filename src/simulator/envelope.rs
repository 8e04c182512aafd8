//! The envelope around a reply's node, and the faults that are played on it.
use super::{
    aes::ContentKey,
    faults::FaultKind,
    ids,
    node::{Refusal, Signed, Signer},
};

/// What a call is answered with, before it is encrypted, signed and wrapped.
pub(super) struct Answer {
    /// The node's text.
    pub(super) node: String,
    pub(super) signed: Signed,
    /// What the node is encrypted with.
    pub(super) key: Option<ContentKey>,
    /// `ok` or `sub_code`.
    pub(super) verdict: String,
}

impl Answer {
    /// Makes the plain answer to a call that was refused before it was executed.
    pub(super) fn refusal(refusal: &Refusal) -> Self {
        Self {
            node: refusal.node().text(),
            signed: refusal.signed,
            key: None,
            verdict: refusal.sub_code.clone(),
        }
    }

    /// Makes the answer of a call that was executed, well or not.
    pub(super) fn executed(outcome: Result<String, Refusal>, key: Option<ContentKey>) -> Self {
        match outcome {
            Ok(node) => Self {
                node,
                signed: Signed::Yes,
                key,
                verdict: "ok".to_owned(),
            },
            Err(refusal) => Self {
                key,
                ..Self::refusal(&refusal)
            },
        }
    }
}

/// Writes the reply of `answer` under `root`.
pub(super) fn write(
    mut signer: Signer,
    root: &str,
    (answer, fault): (&Answer, Option<FaultKind>),
) -> String {
    let text = signer.charset.spell_json(&answer.node);
    let node = match &answer.key {
        Some(key) => encrypted(&signer, key, (&text, fault)),
        None => text,
    };
    if let (Some(FaultKind::ForgedCertSn), Some(sn)) = (fault, &mut signer.alipay_cert_sn) {
        *sn = ids::hex(16);
    }
    match (answer.signed, fault) {
        (Signed::No, _) | (_, Some(FaultKind::Unsigned)) => format!("{{\"{root}\":{node}}}"),
        (_, Some(FaultKind::TamperedSign)) => {
            let sign = signer.sign(&format!("{node} "));
            wrap(&signer, (root, &node), &sign)
        }
        (_, Some(FaultKind::CiphertextQuotes)) => {
            let sign = signer.sign(node.trim_matches('"'));
            wrap(&signer, (root, &node), &sign)
        }
        (_, Some(FaultKind::DuplicateNode)) => {
            let forged = format!("{{\"{root}\":{node},\"{root}\":{},", changed(&node));
            let genuine = signed(&signer, root, &node);
            genuine.replacen(&format!("{{\"{root}\":{node},"), &forged, 1)
        }
        (_, Some(FaultKind::WrongRoot)) => {
            signed(&signer, "alipay_simulator_other_response", &node)
        }
        (_, Some(FaultKind::Tampered)) => {
            signed(&signer, root, &node).replacen(&node, &changed(&node), 1)
        }
        _ => signed(&signer, root, &node),
    }
}

/// Encrypts a node into a JSON string, which stands in the node's place.
fn encrypted(
    signer: &Signer,
    key: &ContentKey,
    (text, fault): (&str, Option<FaultKind>),
) -> String {
    let bytes = signer.charset.encode(text).unwrap_or_default();
    let ciphertext = match fault {
        Some(FaultKind::GarbledCiphertext) => key.garbled(),
        // An empty text is refused by everyone.
        _ => key.encrypt(&bytes).unwrap_or_default(),
    };
    format!("\"{ciphertext}\"")
}

/// The signature is over the node's very text, quotes of a ciphertext included.
fn signed(signer: &Signer, root: &str, node: &str) -> String {
    wrap(signer, (root, node), &signer.sign(node))
}

fn wrap(signer: &Signer, (root, node): (&str, &str), sign: &str) -> String {
    let certificate = signer
        .alipay_cert_sn
        .as_ref()
        .map(|sn| format!("\"alipay_cert_sn\":\"{sn}\","))
        .unwrap_or_default();
    format!("{{\"{root}\":{node},{certificate}\"sign\":\"{sign}\"}}")
}

/// Changes one byte: the last digit of the node, so that it stays good JSON; without any digit one
/// byte is added at the start.
pub(super) fn changed(text: &str) -> String {
    let digit = text.rfind(|character: char| character.is_ascii_digit());
    let Some((before, rest)) = digit.and_then(|at| text.split_at_checked(at)) else {
        return match text.strip_prefix('"') {
            Some(rest) => format!("\"A{rest}"),
            None => text.replacen('{', "{ ", 1),
        };
    };
    let other = if rest.starts_with('9') { '8' } else { '9' };
    format!("{before}{other}{}", rest.get(1..).unwrap_or_default())
}
