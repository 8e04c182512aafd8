//! `call`: one call through a running sidecar.

use anyhow::Context as _;
use bytes::Bytes;
use clap::Args;
use http::{Method, Request, StatusCode, header};
use http_body_util::Full;

use crate::cli::admin_client::encoded;
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::output::Form;
use crate::cli::pinned::Trust;
use crate::cli::{exchange, input, output};
use crate::model::id::AppId;

#[derive(Debug, Args)]
pub(crate) struct CallArguments {
    /// Alipay's method, such as alipay.trade.query
    method: String,
    /// A PID, an auth_app_id, an alias, or self
    #[arg(long)]
    merchant: Option<String>,
    /// Our application, where several are configured
    #[arg(long)]
    app: Option<AppId>,
    /// The biz_content, or @FILE (@- is standard input)
    #[arg(long, value_name = "JSON|@FILE")]
    biz: Option<String>,
    /// A further top-level parameter
    #[arg(long, value_name = "NAME=VALUE")]
    param: Vec<String>,
    /// Reference of the bearer token, where callers are configured
    #[arg(long, value_name = "REF")]
    token: Option<String>,
    #[command(flatten)]
    form: Form,
}

pub(crate) async fn execute(context: &Context, arguments: CallArguments) -> Result<(), Failure> {
    let config = context.load_to_ask()?;
    let request = request(&arguments)?;
    let listen = &config.proxy.listen;
    let tls = config.proxy.tls_cert.as_deref().map(Trust::Holder);
    let reply = exchange::send(listen, tls, request)
        .await
        .map_err(|no_reply| no_reply.into_error("sidecar", listen))?;
    output::say_bytes(&reply.body);
    match reply.status {
        StatusCode::OK => Ok(()),
        status => Err(Failure::told(format!("the call was answered {status}"))),
    }
}

fn request(arguments: &CallArguments) -> Result<Request<Full<Bytes>>, Failure> {
    let biz = match arguments.biz.as_deref() {
        None => Vec::new(),
        Some(biz) => match biz.strip_prefix('@') {
            Some(path) => input::file(path)?,
            None => biz.as_bytes().to_vec(),
        },
    };
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(format!(
            "/v2/{}{}",
            encoded(&arguments.method),
            query(&arguments.param)?
        ))
        .header(header::HOST, "localhost")
        .header(header::CONTENT_TYPE, "application/json");
    if let Some(merchant) = &arguments.merchant {
        request = request.header("alipay-merchant", merchant);
    }
    if let Some(app_id) = &arguments.app {
        request = request.header("alipay-app", app_id.as_str());
    }
    if let Some(token) = input::optional_secret("--token", arguments.token.as_deref())? {
        request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.expose()));
    }
    let request = request.body(Full::new(Bytes::from(biz)));
    Ok(request.context("the arguments make no HTTP request")?)
}

fn query(params: &[String]) -> Result<String, Failure> {
    let mut pairs = Vec::new();
    for param in params {
        let Some((name, value)) = param.split_once('=') else {
            return Err(Failure::Usage(format!(
                "--param `{param}`: expected NAME=VALUE"
            )));
        };
        pairs.push(format!("{}={}", encoded(name), encoded(value)));
    }
    Ok(match pairs.is_empty() {
        true => String::new(),
        false => format!("?{}", pairs.join("&")),
    })
}
