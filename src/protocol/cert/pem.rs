//! From the text of a certificate file to the DER of its entries.

use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

/// Gives each certificate block in the order of the text; `None` for one that is cut short or
/// isn't base64. Text and other blocks between them don't count.
///
/// Without any block, the text may be the base64 of one certificate, or of such a text: so
/// `alipay.open.app.alipaycert.download` gives it.
pub(super) fn blocks(text: &str) -> Vec<Option<Vec<u8>>> {
    if text.contains(BEGIN) {
        return armoured(text);
    }
    let Some(decoded) = decode(text).filter(|decoded| !decoded.is_empty()) else {
        return Vec::new();
    };
    match std::str::from_utf8(&decoded) {
        Ok(inner) if inner.contains(BEGIN) => armoured(inner),
        _ => vec![Some(decoded)],
    }
}

fn armoured(text: &str) -> Vec<Option<Vec<u8>>> {
    let certificate = |piece: &str| {
        let (label, rest) = piece.split_once("-----")?;
        let is_certificate = ["CERTIFICATE", "X509 CERTIFICATE", "X.509 CERTIFICATE"];
        is_certificate.contains(&label.trim()).then(|| {
            let (body, _) = rest.split_once("-----END")?;
            decode(body)
        })
    };
    text.split(BEGIN).skip(1).filter_map(certificate).collect()
}

/// Writes one certificate, in lines of 64 characters.
pub(super) fn written(der: &[u8]) -> String {
    let text = ENGINE.encode(der);
    let mut pem = format!("{BEGIN}CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem + "-----END CERTIFICATE-----\n"
}

fn decode(body: &str) -> Option<Vec<u8>> {
    let body: String = body.split_whitespace().collect();
    ENGINE.decode(body).ok()
}

const BEGIN: &str = "-----BEGIN ";

const ENGINE: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_stand_anywhere_in_the_text() {
        let text = "subject=x\r\n-----BEGIN CERTIFICATE-----\r\nAQ==\r\n-----END CERTIFICATE-----\
                    -----BEGIN EC PARAMETERS-----\nAAAA\n-----END EC PARAMETERS-----\nwords\
                    -----BEGIN X509 CERTIFICATE-----\n A g \n-----END X509 CERTIFICATE-----\n\
                    -----BEGIN CERTIFICATE-----\n***\n-----END CERTIFICATE-----\n\
                    -----BEGIN CERTIFICATE-----\nAw==";
        assert_eq!(blocks(text), [Some(vec![1]), Some(vec![2]), None, None]);
    }

    #[test]
    fn what_is_written_is_read() {
        for length in [1, 47, 48, 49, 1000] {
            let der = vec![7; length];
            assert_eq!(blocks(&written(&der)), [Some(der)]);
        }
    }

    #[test]
    fn base64_of_one_or_of_the_text_is_read_too() {
        assert_eq!(blocks("AQ=="), [Some(vec![1])]);
        let text = "-----BEGIN CERTIFICATE-----\nAQ==\n-----END CERTIFICATE-----\n";
        let again = base64::engine::general_purpose::STANDARD.encode(text);
        assert_eq!(blocks(&again), [Some(vec![1])]);
        assert!(blocks("").is_empty());
        assert!(blocks("no certificate").is_empty());
    }
}
