//! `alipay.service.check`: asks a life account's developer gateway who it is.
use super::{
    notify::{Family, Notice},
    seed::{DEFAULT_USER_ID, SimulatedApp},
    sign,
};

/// Makes the check; its content is ASCII in every charset.
pub(super) fn notice(app: &SimulatedApp, url: &str, now: i64) -> Notice {
    let xml = format!(
        "<XML><AppId><![CDATA[{}]]></AppId>\
         <FromUserId><![CDATA[{DEFAULT_USER_ID}]]></FromUserId>\
         <CreateTime>{now}</CreateTime>\
         <MsgType><![CDATA[event]]></MsgType>\
         <EventType><![CDATA[verifygw]]></EventType>\
         <ActionParam></ActionParam></XML>",
        app.app_id
    );
    let params = vec![
        ("service", "alipay.service.check".to_owned()),
        ("charset", "GBK".to_owned()),
        ("biz_content", xml),
    ];
    Notice::new(
        ("service-check", Family::ServiceCheck),
        &app.app_id,
        url,
        params,
    )
}

/// Verifies the answer: the app's own public key, signed by its private key.
///
/// Protocol: 生活号开发者网关验证; the signature is over the text between `<response>` and
/// `</response>`.
pub(super) fn is_good_answer(app: &SimulatedApp, answer: &[u8]) -> bool {
    // The keys and signatures that matter are ASCII in GBK and UTF-8 alike.
    let text = String::from_utf8_lossy(answer);
    let (Some(response), Some(sign)) = (between(&text, "response"), between(&text, "sign")) else {
        return false;
    };
    let key = sign::bare_public_key(&app.public_key);
    between(response, "success") == Some("true")
        && between(response, "biz_content") == Some(key.as_str())
        && app
            .sign_type
            .verify(&app.public_key, response.as_bytes(), sign)
}

fn between<'a>(text: &'a str, element: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{element}>"))?;
    rest.split_once(&format!("</{element}>"))
        .map(|(inner, _)| inner)
}
