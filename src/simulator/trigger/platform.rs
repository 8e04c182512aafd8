//! Messages to the app gateway: authorizations, cancellations, service-market orders.
use serde_json::{Value, json};

use super::{
    super::{
        authorization::{EXPIRES_IN, Grant, GrantKey, RE_EXPIRES_IN, TokenState},
        calendar,
        error::SimulatorError,
        ids,
        notify::{Family, Notice},
        seed::{DEFAULT_AGENT_APP_ID, SimulatedApp},
        world::World,
    },
    Event, TriggerOptions, app_gateway,
};

/// `open_app_auth_notify`, which carries the token itself.
pub(super) fn authorize(
    world: &mut World,
    (app, event): (&SimulatedApp, Event),
    options: &TriggerOptions,
    now: i64,
) -> Result<Notice, SimulatorError> {
    let key = grant_key(world, app, options)?;
    let newest = world.grants.newest(&key).cloned();
    let auth_time = options.auth_time.unwrap_or(now);
    let grant = match (event, newest) {
        (Event::FeaturePackage, Some(grant)) => grant,
        _ => world.grants.issue(key.clone(), auth_time),
    };
    let code = world
        .grants
        .issue_code(&key.app_id, vec![key.auth_app_id.clone()], now);
    let mut detail = detail(world, &grant, auth_time);
    if let Some(members) = detail.as_object_mut() {
        members.insert("app_auth_code".to_owned(), code.into());
        if event == Event::PluginOrder {
            members.insert("agent_app_id".to_owned(), DEFAULT_AGENT_APP_ID.into());
        }
    }
    let trigger = if event == Event::PluginOrder {
        "appstore"
    } else {
        "mrchiscore"
    };
    let context = json!({"out_biz_no": ids::digits(16)});
    let biz_content = json!({
        "notify_context": {"trigger": trigger, "trigger_context": context},
        "detail": detail,
        "error": {},
    });
    let params = vec![
        ("notify_type", "open_app_auth_notify".to_owned()),
        ("status", "execute_auth".to_owned()),
        ("auth_app_id", key.auth_app_id),
        ("biz_content", biz_content.to_string()),
    ];
    let kind = (event.name(), Family::OldMessage);
    Ok(Notice::new(
        kind,
        &app.app_id,
        &app_gateway(app, options)?,
        params,
    ))
}

fn detail(world: &World, grant: &Grant, auth_time: i64) -> Value {
    json!({
        "app_id": grant.key.app_id,
        "auth_app_id": grant.key.auth_app_id,
        "app_auth_token": grant.app_auth_token,
        "app_refresh_token": grant.app_refresh_token,
        "auth_time": auth_time,
        "user_id": world.pid(&grant.key.auth_app_id),
        "expires_in": EXPIRES_IN,
        "re_expires_in": RE_EXPIRES_IN,
    })
}

pub(super) fn cancel(
    world: &mut World,
    app: &SimulatedApp,
    options: &TriggerOptions,
    now: i64,
) -> Result<Notice, SimulatorError> {
    let key = grant_key(world, app, options)?;
    let url = app_gateway(app, options)?;
    world.grants.set_state(&key, TokenState::Cancelled);
    let biz_content = json!({
        "auth_app_id": key.auth_app_id,
        "user_id": world.pid(&key.auth_app_id),
        "cancel_time": options.auth_time.unwrap_or(now),
    });
    let params = vec![
        (
            "msg_method",
            "alipay.open.auth.appauth.cancelled".to_owned(),
        ),
        ("biz_content", biz_content.to_string()),
    ];
    Ok(Notice::new(
        ("cancel", Family::Message),
        &app.app_id,
        &url,
        params,
    ))
}

pub(super) fn order_message(
    world: &World,
    app: &SimulatedApp,
    options: &TriggerOptions,
    now: i64,
) -> Result<Notice, SimulatorError> {
    let merchant = world.merchant(options.auth_app_id.as_deref())?;
    let params = vec![
        ("notify_type", "servicemarket_order_notify".to_owned()),
        (
            "method",
            "alipay.open.servicemarket.order.notify".to_owned(),
        ),
        ("commodity_order_id", ids::digits(20)),
        ("order_time", calendar::spell(now)),
        ("title", "模拟插件".to_owned()),
        ("name", "模拟商家".to_owned()),
        ("merchant_pid", merchant.pid.clone()),
        ("contactor", "null".to_owned()),
        ("phone", "null".to_owned()),
        ("order_item_num", "1".to_owned()),
        (
            "total_price",
            options.amount.clone().unwrap_or_else(|| "0.00".to_owned()),
        ),
        ("biz_type", "PLUGIN".to_owned()),
        ("specifications", "null".to_owned()),
        ("package_count", "1".to_owned()),
        ("period_day", "365".to_owned()),
        ("order_ticket", ids::code()),
        ("service_code", ids::digits(12)),
        ("isv_ticket", "null".to_owned()),
        ("consumer_miniAppId", merchant.auth_app_id.clone()),
    ];
    let url = app_gateway(app, options)?;
    Ok(Notice::new(
        ("order-message", Family::OldMessage),
        &app.app_id,
        &url,
        params,
    ))
}

fn grant_key(
    world: &World,
    app: &SimulatedApp,
    options: &TriggerOptions,
) -> Result<GrantKey, SimulatorError> {
    let merchant = world.merchant(options.auth_app_id.as_deref())?;
    Ok(GrantKey {
        app_id: app.app_id.clone(),
        auth_app_id: merchant.auth_app_id.clone(),
    })
}
