//! Alipay's own string, as a vector has it.

use super::*;
use alipay_sidecar::protocol::diagnosis::{GatewayVerdict, gateway_difference};

#[test]
fn the_vector_of_an_invalid_signature_is_read() {
    let cases = file("v2-response");
    let mut cases = cases["cases"].as_array().unwrap().iter();
    let case = cases
        .find(|case| case["id"] == "invalid-signature-node")
        .unwrap();
    let body: serde_json::Value = serde_json::from_slice(&bytes(case, "body_b64")).unwrap();
    let sub_msg = body["alipay_trade_query_response"]["sub_msg"]
        .as_str()
        .unwrap();
    let equal = gateway_difference("app_id=1&charset=utf-8", sub_msg);
    assert_eq!(equal, GatewayVerdict::Equal);
    let verdict = gateway_difference("app_id=1&charset=gbk", sub_msg);
    assert!(
        matches!(verdict, GatewayVerdict::Different(_)),
        "{sub_msg}: {verdict}"
    );
}
