//! The simulator's encryption of contents: calls, replies, client data, notifications, merchants'
//! keys.
#![expect(
    clippy::unwrap_used,
    reason = "clippy.toml allows them in tests, but not in the helpers beside them"
)]
use alipay_sidecar::simulator::{
    DEFAULT_APP_ID, Event, FIRST_AUTH_APP_ID, FIRST_ENCRYPT_KEY, Fault, FaultKind,
    SECOND_AUTH_APP_ID, SimulatedMerchant, TriggerOptions,
};
use aws_lc_rs::cipher::{
    AES_128, DecryptionContext, EncryptionContext, PaddedBlockDecryptingKey,
    PaddedBlockEncryptingKey, UnboundCipherKey,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use encoding_rs::GB18030;
use serde_json::{Value, json};

use crate::support::isv::{Isv, Reply, content, decode, verifies};

const KEY: &str = "aa4BtZ4tspm2wnXLb1ThQA==";
const OTHER_KEY: &str = "BwcHBwcHBwcHBwcHBwcHBw==";
const QUERY: &str = "alipay.trade.query";

fn unbound(key: &str) -> UnboundCipherKey {
    UnboundCipherKey::new(&AES_128, &STANDARD.decode(key).unwrap()).unwrap()
}

fn encrypt(key: &str, text: &str) -> String {
    encrypt_bytes(key, text.as_bytes().to_vec())
}

fn encrypt_bytes(key: &str, mut bytes: Vec<u8>) -> String {
    let key = PaddedBlockEncryptingKey::cbc_pkcs7(unbound(key)).unwrap();
    let zeros = EncryptionContext::Iv128([0; 16].into());
    key.less_safe_encrypt(&mut bytes, zeros).unwrap();
    STANDARD.encode(bytes)
}

fn decrypt(key: &str, text: &str) -> Option<String> {
    decrypt_bytes(key, text).map(|bytes| String::from_utf8(bytes).unwrap())
}

fn decrypt_bytes(key: &str, text: &str) -> Option<Vec<u8>> {
    let mut bytes = STANDARD.decode(text).unwrap();
    let key = PaddedBlockDecryptingKey::cbc_pkcs7(unbound(key)).unwrap();
    let zeros = DecryptionContext::Iv128([0; 16].into());
    let plain = key.decrypt(&mut bytes, zeros).ok()?;
    Some(plain.to_vec())
}

async fn start() -> Isv {
    Isv::start(|app| app.encrypt_key(KEY).unwrap()).await
}

/// One encrypted call.
async fn call(isv: &Isv, method: &str, biz: &Value) -> Reply {
    let biz = encrypt(KEY, &biz.to_string());
    let changes = [("biz_content", biz.as_str()), ("encrypt_type", "AES")];
    isv.call(method, &changes).await
}

fn opened(reply: &Reply) -> Value {
    let ciphertext: String = serde_json::from_str(&reply.node).expect(&reply.text);
    serde_json::from_str(&decrypt(KEY, &ciphertext).unwrap()).unwrap()
}

#[tokio::test]
async fn the_signature_covers_the_quotes_of_the_ciphertext() {
    let isv = start().await;
    let trade = json!({"out_trade_no": "e1", "total_amount": "1.00", "subject": "中文"});
    let created = call(&isv, "alipay.trade.create", &trade).await;
    assert!(created.node.starts_with('"'), "{}", created.text);
    assert!(created.verifies(&isv.platform_key()));
    assert_eq!(opened(&created)["out_trade_no"], "e1");
    let missing = call(&isv, QUERY, &json!({"out_trade_no": "e2"})).await;
    assert_eq!(opened(&missing)["sub_code"], "ACQ.TRADE_NOT_EXIST");
    let plain = isv
        .call(QUERY, &[("biz_content", "{\"out_trade_no\":\"e1\"}")])
        .await;
    assert_eq!(plain.json()["trade_status"], "WAIT_BUYER_PAY");
}

#[tokio::test]
async fn what_is_encrypted_is_a_text_in_the_charset_of_the_call() {
    let isv = start().await;
    let trade = json!({"out_trade_no": "中1", "total_amount": "1.00", "subject": "€"});
    let trade = trade.to_string();
    let (bytes, _, _) = GB18030.encode(&trade);
    let biz = encrypt_bytes(KEY, bytes.into_owned());
    let changes = [
        ("biz_content", biz.as_str()),
        ("encrypt_type", "AES"),
        ("charset", "GBK"),
    ];
    let reply = isv.call("alipay.trade.create", &changes).await;
    assert!(reply.verifies(&isv.platform_key()));
    let ciphertext: String = serde_json::from_str(&reply.node).expect(&reply.text);
    let plain = decrypt_bytes(KEY, &ciphertext).unwrap();
    let (text, _, _) = GB18030.decode(&plain);
    let node: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(node["out_trade_no"], "中1");
}

#[tokio::test]
async fn what_cannot_be_decrypted_is_refused_in_the_clear() {
    let isv = start().await;
    let biz = json!({"out_trade_no": "e1"}).to_string();
    let (good, foreign) = (encrypt(KEY, &biz), encrypt(OTHER_KEY, &biz));
    for (biz_content, encrypt_type, sub_code) in [
        (foreign.as_str(), "AES", "isv.decryption-error-unknown"),
        (biz.as_str(), "AES", "isv.decryption-error-unknown"),
        ("", "AES", "isv.decryption-error-unknown"),
        (&good, "SM4", "isv.invalid-encrypt-type"),
        (&good, "", "isv.invalid-parameter"),
    ] {
        let changes = [("biz_content", biz_content), ("encrypt_type", encrypt_type)];
        let reply = isv.call(QUERY, &changes).await;
        assert_eq!(reply.sub_code(), sub_code, "{}", reply.text);
        assert!(reply.verifies(&isv.platform_key()));
    }
    isv.simulator.set_encrypt_key(DEFAULT_APP_ID, None).unwrap();
    let reply = isv
        .call(QUERY, &[("biz_content", &good), ("encrypt_type", "AES")])
        .await;
    assert_eq!(reply.sub_code(), "isv.missing-encrypt-key");
    assert!(
        isv.simulator
            .set_encrypt_key(DEFAULT_APP_ID, Some("short"))
            .is_err()
    );
}

#[tokio::test]
async fn an_app_can_be_made_to_encrypt() {
    let isv = Isv::start(|app| app.encrypt_key(KEY).unwrap().encryption_required()).await;
    let biz = json!({"out_trade_no": "e1"});
    let plain = isv.call(QUERY, &[("biz_content", &biz.to_string())]).await;
    assert_eq!(
        plain.sub_code(),
        "isv.decryption-error-missing-encrypt-type"
    );
    let reply = call(&isv, QUERY, &biz).await;
    assert_eq!(opened(&reply)["sub_code"], "ACQ.TRADE_NOT_EXIST");
    isv.simulator
        .require_encryption(DEFAULT_APP_ID, false)
        .unwrap();
    let plain = isv.call(QUERY, &[("biz_content", &biz.to_string())]).await;
    assert_eq!(plain.sub_code(), "ACQ.TRADE_NOT_EXIST");
}

#[tokio::test]
async fn encrypted_replies_go_wrong_on_demand() {
    let isv = start().await;
    let key = isv.platform_key();
    let ask = async |kind: FaultKind| {
        isv.simulator.fault(Fault::once(kind));
        call(&isv, QUERY, &json!({"out_trade_no": "e1"})).await
    };
    let garbled = ask(FaultKind::GarbledCiphertext).await;
    assert!(garbled.verifies(&key));
    let ciphertext: String = serde_json::from_str(&garbled.node).unwrap();
    assert_eq!(decrypt(KEY, &ciphertext), None);

    let quotes = ask(FaultKind::CiphertextQuotes).await;
    assert!(!quotes.verifies(&key));
    let sign = quotes.sign.as_deref().unwrap();
    assert!(verifies(&key, quotes.node.trim_matches('"'), sign));

    let tampered = ask(FaultKind::Tampered).await;
    assert!(!tampered.verifies(&key));
}

#[tokio::test]
async fn merchants_keys_are_given_to_encrypted_calls_alone() {
    let isv = start().await;
    let get = "alipay.open.auth.app.aes.get";
    let biz = json!({"merchant_app_id": FIRST_AUTH_APP_ID});
    let plain = isv.call(get, &[("biz_content", &biz.to_string())]).await;
    assert_eq!(
        plain.sub_code(),
        "isv.decryption-error-missing-encrypt-type"
    );
    assert_eq!(
        opened(&call(&isv, get, &biz).await)["aes_key"],
        FIRST_ENCRYPT_KEY
    );
    let set = opened(&call(&isv, "alipay.open.auth.app.aes.set", &biz).await);
    assert_ne!(set["aes_key"], FIRST_ENCRYPT_KEY);
    assert_eq!(
        opened(&call(&isv, get, &biz).await)["aes_key"],
        set["aes_key"]
    );

    let stranger = SimulatedMerchant::new("2021000000001003", "2088000000001003");
    isv.simulator.add_merchant(stranger);
    let biz = json!({"merchant_app_id": "2021000000001003"});
    let foreign = opened(&call(&isv, get, &biz).await);
    assert_eq!(foreign["sub_code"], "isv.invalid-auth-relations");
}

#[tokio::test]
async fn client_data_is_encrypted_by_the_merchant_and_signed_for_the_app() {
    let isv = start().await;
    let phone = r#"{"code":"10000","msg":"Success","mobile":"13800000000"}"#;
    let message = isv
        .simulator
        .client_data(DEFAULT_APP_ID, FIRST_AUTH_APP_ID, phone)
        .unwrap();
    let message: Value = serde_json::from_str(&message).unwrap();
    let [response, sign] = ["response", "sign"].map(|name| message[name].as_str().unwrap());
    assert!(verifies(
        &isv.platform_key(),
        &format!("\"{response}\""),
        sign
    ));
    assert_eq!(decrypt(FIRST_ENCRYPT_KEY, response).unwrap(), phone);

    let error = r#"{"code":"40003","subCode":"isv.invalid-auth-relations"}"#;
    let message = isv
        .simulator
        .plain_client_data(DEFAULT_APP_ID, error)
        .unwrap();
    let message: Value = serde_json::from_str(&message).unwrap();
    assert_eq!(message["response"], error);
    assert!(verifies(
        &isv.platform_key(),
        error,
        message["sign"].as_str().unwrap()
    ));

    let without = SimulatedMerchant::new("2021000000001003", "2088000000001003");
    isv.simulator.add_merchant(without);
    let refused = isv
        .simulator
        .client_data(DEFAULT_APP_ID, "2021000000001003", phone);
    assert!(refused.is_err());
    assert!(isv.simulator.plain_client_data("none", phone).is_err());
}

#[tokio::test]
async fn an_encrypted_notification_is_signed_as_it_is_sent() {
    let isv = start().await;
    let options = TriggerOptions {
        auth_app_id: Some(SECOND_AUTH_APP_ID.to_owned()),
        encrypted: true,
        url: Some("http://127.0.0.1:9/".to_owned()),
        wait: true,
        ..Default::default()
    };
    let record = isv
        .simulator
        .trigger(Event::Cancel, &options)
        .await
        .unwrap();
    let params = decode(&record.body);
    assert_eq!(params["encrypt_type"], "AES");
    let signed = content(&params, &["sign", "sign_type"]);
    assert!(verifies(&isv.platform_key(), &signed, &params["sign"]));
    let biz: Value = serde_json::from_str(&decrypt(KEY, &params["biz_content"]).unwrap()).unwrap();
    assert_eq!(biz["auth_app_id"], SECOND_AUTH_APP_ID);
    let payment = isv.simulator.trigger(Event::Payment, &options).await;
    assert!(payment.is_err(), "a payment has no biz_content");
}
