//! What `{:?}` of a public type must not show: bodies, and what whoever reads it could use.

use std::path::Path;

use alipay_sidecar::config::Source;
use alipay_sidecar::delivery::pull::Pulled;
use alipay_sidecar::protocol::charset::Charset;
use alipay_sidecar::protocol::signed_answer::{SpiAnswer, XmlAnswer};
use alipay_sidecar::webhook::link::Ticket;
use bytes::Bytes;

use crate::store::entry;

const CANARY: &str = "canary-of-a-body";

#[test]
fn no_body_and_no_state_is_printed() {
    let json = format!("{{\"name\":\"{CANARY}\"}}");
    let pulled = Pulled {
        entry: entry(1, None),
        attempt: 1,
        lease_until: 2,
        content_type: "application/json".to_owned(),
        body: Bytes::from(json.clone()),
    };
    let ticket = Ticket {
        redirect_uri: "https://isv.example.com/alipay/auth".to_owned(),
        state: CANARY.to_owned(),
        expires_at: 3,
    };
    let xml = XmlAnswer::from_inner(CANARY, Charset::Utf8).expect("text");
    let spi = SpiAnswer::new(json.as_bytes(), Charset::Utf8).expect("an object");
    let source = Source::of_text(Path::new("config.toml"), CANARY.to_owned());
    let printed = [
        format!("{pulled:?}"),
        format!("{ticket:?}"),
        format!("{xml:?}"),
        format!("{spi:?}"),
        format!("{source:?}"),
    ];
    for text in printed {
        assert!(!text.contains(CANARY), "{text}");
        assert!(
            !text.contains(&format!("{:?}", CANARY.as_bytes())),
            "{text}"
        );
    }
}
