//! `alipay.open.auth.app.aes.get` and `.set`: an app reads and sets its merchants' AES keys.
use super::{
    aes::ContentKey,
    authorization::GrantKey,
    node::{Node, Refusal},
    world::{Call, World},
};

/// Gives the merchant's key.
pub(super) fn get(world: &mut World, call: &Call) -> Result<Node, Refusal> {
    let merchant_app_id = authorized(world, call)?;
    let key = world
        .merchants
        .get(&merchant_app_id)
        .and_then(|merchant| merchant.encrypt_key.clone())
        .ok_or_else(|| Refusal::business("AES_KEY_NOT_EXIST", "应用未设置AES密钥"))?;
    Ok(Node::success().with("aes_key", key))
}

/// Makes the merchant a new key.
pub(super) fn set(world: &mut World, call: &Call) -> Result<Node, Refusal> {
    let merchant_app_id = authorized(world, call)?;
    let key = ContentKey::generate().to_base64();
    if let Some(merchant) = world.merchants.get_mut(&merchant_app_id) {
        merchant.encrypt_key = Some(key.clone());
    }
    Ok(Node::success().with("aes_key", key))
}

/// Protocol: 授权应用AES密钥; only encrypted calls are taken, and only for a merchant's application
/// that has authorized the app.
fn authorized(world: &World, call: &Call) -> Result<String, Refusal> {
    if call.content_key.is_none() {
        return Err(Refusal::plain_call());
    }
    let auth_app_id = call.required("merchant_app_id")?;
    let key = GrantKey {
        app_id: call.caller.app_id.clone(),
        auth_app_id,
    };
    match world.grants.newest(&key) {
        Some(_) => Ok(key.auth_app_id),
        None => Err(Refusal::new(
            "40003",
            "isv.invalid-auth-relations",
            "无效的授权关系",
        )),
    }
}
