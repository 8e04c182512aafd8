//! The authorization pages, as if whoever sees them agreed at once.
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use serde_json::Value;

use super::{
    Inner,
    charset::Charset,
    gateway::Body,
    params::{self, Received},
    seed::DEFAULT_USER_ID,
    world::World,
};

/// What an authorization link asks for.
struct Link {
    app_id: String,
    redirect_uri: String,
    state: Option<String>,
    /// Not Alipay's: which merchant application agrees; the first when left out.
    auth_app_id: Option<String>,
}

impl Link {
    /// Reads the link of `/oauth2/….htm`.
    fn read(request: &Request<Bytes>) -> Result<Self, String> {
        let text = request.uri().query().unwrap_or_default();
        let received = Received::read_query(text).map_err(|refusal| refusal.sub_msg)?;
        let params = received.union().map_err(|refusal| refusal.sub_msg)?;
        let param = |name: &str| {
            params
                .get(name)
                .cloned()
                .ok_or_else(|| format!("{name} is missing"))
        };
        Ok(Self {
            app_id: param("app_id")?,
            redirect_uri: param("redirect_uri")?,
            state: params.get("state").cloned(),
            auth_app_id: params.get("simulator_auth_app_id").cloned(),
        })
    }

    /// Reads the link of the page for one specified application: JSON in `bizData`.
    fn read_biz_data(request: &Request<Bytes>) -> Result<Self, String> {
        let text = request.uri().query().unwrap_or_default();
        let received = Received::read_query(text).map_err(|refusal| refusal.sub_msg)?;
        let params = received.union().map_err(|refusal| refusal.sub_msg)?;
        let data = params.get("bizData").ok_or("bizData is missing")?;
        let data: Value = serde_json::from_str(data).map_err(|error| error.to_string())?;
        let expected = |name: &str| data.get(name).and_then(Value::as_str).unwrap_or_default();
        if expected("platformCode") != "O" || expected("taskType") != "INTERFACE_AUTH" {
            return Err("platformCode must be O and taskType INTERFACE_AUTH".to_owned());
        }
        let member = |name: &str| {
            let value = data
                .pointer(&format!("/agentOpParam/{name}"))
                .and_then(Value::as_str);
            value.map(str::to_owned)
        };
        Ok(Self {
            app_id: member("isvAppId").ok_or("isvAppId is missing")?,
            redirect_uri: member("redirectUri").ok_or("redirectUri is missing")?,
            state: member("state"),
            auth_app_id: params.get("simulator_auth_app_id").cloned(),
        })
    }

    /// Writes the address the browser is sent to.
    fn target(&self, source: &str, more: Vec<(&str, String)>) -> String {
        let mut pairs = vec![
            ("app_id", self.app_id.clone()),
            ("source", source.to_owned()),
        ];
        pairs.extend(more);
        pairs.extend(self.state.clone().map(|state| ("state", state)));
        let pairs: Vec<_> = pairs
            .into_iter()
            .map(|(name, v)| (name.to_owned(), v))
            .collect();
        let joint = if self.redirect_uri.contains('?') {
            '&'
        } else {
            '?'
        };
        format!(
            "{}{joint}{}",
            self.redirect_uri,
            params::write_form(&pairs, Charset::Utf8)
        )
    }
}

/// Answers one page; none when the path is no page.
pub(super) fn handle(inner: &Inner, request: &Request<Bytes>) -> Option<Response<Body>> {
    let outcome = match request.uri().path() {
        "/oauth2/appToAppAuth.htm" | "/oauth2/appToAppBatchAuth.htm" => {
            Link::read(request).and_then(|link| agree(inner, &link))
        }
        "/page/message/tasksDetail" => {
            Link::read_biz_data(request).and_then(|link| agree(inner, &link))
        }
        "/oauth2/publicAppAuthorize.htm" => {
            Link::read(request).and_then(|link| log_in(inner, request, &link))
        }
        _ => return None,
    };
    Some(outcome.map_or_else(
        |text| page(StatusCode::BAD_REQUEST, text),
        |url| redirect(&url),
    ))
}

/// Lets the merchant agree: 授权回调 with an `app_auth_code`.
fn agree(inner: &Inner, link: &Link) -> Result<String, String> {
    let now = inner.now();
    let code = inner.with_world(|world| {
        check_redirect(world, link)?;
        let merchant = world
            .merchant(link.auth_app_id.as_deref())
            .map_err(|error| error.to_string())?
            .auth_app_id
            .clone();
        Ok::<_, String>(world.grants.issue_code(&link.app_id, vec![merchant], now))
    })?;
    Ok(link.target("alipay_app_auth", vec![("app_auth_code", code)]))
}

/// Lets a user log in: a redirect with an `auth_code`.
fn log_in(inner: &Inner, request: &Request<Bytes>, link: &Link) -> Result<String, String> {
    let query = request.uri().query().unwrap_or_default();
    let scope = if query.contains("auth_user") {
        "auth_user"
    } else {
        "auth_base"
    };
    let now = inner.now();
    // The link names the merchant's application when an ISV acts for it.
    let code = inner.with_world(|world| world.users.issue_code(&link.app_id, DEFAULT_USER_ID, now));
    let more = vec![("scope", scope.to_owned()), ("auth_code", code)];
    Ok(link.target("alipay_wallet", more))
}

fn check_redirect(world: &World, link: &Link) -> Result<(), String> {
    let app = world
        .app(Some(&link.app_id))
        .map_err(|error| error.to_string())?;
    match &app.auth_redirect {
        Some(registered) if !is_within(&link.redirect_uri, registered) => Err(format!(
            "redirect_uri is not the registered one (授权回调地址), {registered}"
        )),
        _ => Ok(()),
    }
}

/// Whether an address is the registered one, with whatever query or fragment.
fn is_within(redirect_uri: &str, registered: &str) -> bool {
    let rest = redirect_uri.strip_prefix(registered);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['?', '#']))
}

fn redirect(url: &str) -> Response<Body> {
    let mut response = page(StatusCode::FOUND, String::new());
    match header::HeaderValue::from_str(url) {
        Ok(value) => {
            response.headers_mut().insert(header::LOCATION, value);
            response
        }
        Err(_) => page(StatusCode::BAD_REQUEST, "redirect_uri is no URL".to_owned()),
    }
}

fn page(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(text)).boxed());
    *response.status_mut() = status;
    let plain = header::HeaderValue::from_static("text/plain;charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}
