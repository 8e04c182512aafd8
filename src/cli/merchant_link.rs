//! `merchant link`: what a merchant opens to authorise us.

use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::json;

use crate::admin::authorizations::LinkView;
use crate::cli::admin_client::AdminClient;
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::output::Form;
use crate::cli::{output, records};
use crate::config::error::Mismatch;
use crate::config::value;
use crate::model::id::AppId;

#[derive(Debug, Args)]
#[command(after_help = BY_HAND)]
pub(crate) struct LinkArguments {
    /// Our application; with one only, it is implied
    #[arg(long)]
    app: Option<AppId>,
    /// Your own tenant id: it comes back in the event and on webhook.auth_return_url
    #[arg(long = "ref", value_name = "REF")]
    reference: Option<String>,
    /// Which of Alipay's pages
    #[arg(long, value_enum, default_value_t = PageKind::Batch)]
    page: PageKind,
    /// Kinds of applications to offer, such as TINYAPP,WEBAPP; all by default
    #[arg(long, default_value = "")]
    types: String,
    /// For --page invite: the merchant to ask again
    #[arg(long, value_name = "S", required_if_eq("page", "invite"))]
    merchant: Option<String>,
    /// How long it may be used, at most 24h
    #[arg(long, value_parser = duration, value_name = "TIME", default_value = "30m")]
    valid: Duration,
    #[command(flatten)]
    form: Form,
}

/// Alipay's pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PageKind {
    /// The merchant chooses among its applications, several at once
    Batch,
    /// The page for specified applications inside the Alipay app: for a QR code or a phone
    InApp,
    /// A page that Alipay makes for a merchant that authorised before
    Invite,
    /// The merchant's base application; of no use for mini programs
    Single,
    /// The current page, for one application the merchant specifies
    Specified,
}

impl PageKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Batch => "batch",
            Self::InApp => "in-app",
            Self::Invite => "invite",
            Self::Single => "single",
            Self::Specified => "specified",
        }
    }
}

fn duration(text: &str) -> Result<Duration, Mismatch> {
    value::duration(text)
}

pub(crate) async fn link(context: &Context, arguments: LinkArguments) -> Result<(), Failure> {
    if arguments.merchant.is_some() && arguments.page != PageKind::Invite {
        let text = "--merchant belongs to --page invite; the other pages are for any merchant";
        return Err(Failure::Usage(text.to_owned()));
    }
    let client = AdminClient::of(context).await?;
    let (app_id, auth_app_id) = match &arguments.merchant {
        None => (records::app(&client, arguments.app.as_ref()).await?, None),
        Some(selector) => {
            let view = records::merchant(&client, arguments.app.as_ref(), selector).await?;
            (view.app_id, Some(view.auth_app_id))
        }
    };
    let body = json!({
        "page": arguments.page.as_str(),
        "types": arguments.types,
        "ref": arguments.reference,
        "lifetime_s": arguments.valid.as_secs(),
        "auth_app_id": auth_app_id,
    });
    let path = format!("/api/apps/{app_id}/links");
    let body = body.to_string().into_bytes();
    let view: LinkView = client.change(http::Method::POST, &path, body).await?;
    if arguments.form.json {
        return output::say_json(&view);
    }
    output::complain(format!(
        "good for one authorisation until {}; the merchant comes back to {}",
        output::time_of(view.expires_at),
        view.redirect_uri
    ));
    output::say(view.url);
    Ok(())
}

/// What no program can make.
const BY_HAND: &str = "\
Two kinds of links are made by hand, and carry no state:
  the QR code that invites a merchant: in the console, 开发设置 > 授权管理; its callback is stored
    as `bound: false` unless webhook.accept_stateless_auth is false
  a plugin or service of the service market: the merchant orders it there, and the authorisation
    is pushed to 应用网关; an `isv_ticket` in the order link comes back in the order message";
