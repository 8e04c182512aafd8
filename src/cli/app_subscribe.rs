//! `app subscribe`: has Alipay tell of cancellations.

use clap::Args;
use http::Method;
use serde_json::json;

use crate::admin::authorizations::{CANCELLED, SubscriptionView, USER_CANCELLED};
use crate::admin::merchants::MerchantView;
use crate::admin::page::Page;
use crate::cli::admin_client::AdminClient;
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::output::Form;
use crate::cli::{output, pace, records};
use crate::model::id::AppId;

#[derive(Debug, Args)]
#[command(after_help = AFTER)]
pub(crate) struct SubscribeArguments {
    /// Our application; with one only, it is implied
    #[arg(long)]
    app: Option<AppId>,
    /// For this merchant, with its app_auth_token, instead of for the app itself
    #[arg(long, value_name = "S", conflicts_with = "all")]
    merchant: Option<String>,
    /// For every merchant whose authorisation stands
    #[arg(long)]
    all: bool,
    /// A kind of message, instead of the one that tells of merchants' cancellations
    #[arg(long, default_values_t = [CANCELLED.to_owned()])]
    topic: Vec<String>,
    /// Also the message that tells of users' cancellations
    #[arg(long)]
    users: bool,
    /// With --all: how many merchants a second
    #[arg(long, default_value_t = pace::RATE, value_parser = clap::value_parser!(u32).range(1..=pace::MOST))]
    rate: u32,
    #[command(flatten)]
    form: Form,
}

/// What the subscription is about.
struct Subject {
    app_id: String,
    auth_app_id: Option<String>,
}

impl Subject {
    fn of(view: MerchantView) -> Self {
        Self {
            app_id: view.app_id,
            auth_app_id: Some(view.auth_app_id),
        }
    }
}

pub(crate) async fn subscribe(
    context: &Context,
    mut arguments: SubscribeArguments,
) -> Result<(), Failure> {
    if arguments.users {
        arguments.topic.push(USER_CANCELLED.to_owned());
    }
    let client = AdminClient::of(context).await?;
    let ask = async |subject| put(&client, &subject, &arguments.topic).await;
    let (mut refused, mut unasked) = (0_u64, 0);
    let mut take = |page: Page<SubscriptionView>| {
        for view in &page.items {
            refused += u64::from(!view.subscribed);
            tell(view, &arguments.form)?;
        }
        Ok(())
    };
    let app = arguments.app.as_ref();
    if arguments.all {
        let of_merchant = async |view| ask(Subject::of(view)).await;
        let tally = pace::each(&client, (app, arguments.rate), of_merchant, take).await?;
        output::complain(format!("{} merchants", tally.merchants));
        unasked = tally.unasked;
    } else if let Some(selector) = &arguments.merchant {
        let view = records::merchant(&client, app, selector).await?;
        take(ask(Subject::of(view)).await?)?;
    } else {
        let app_id = records::app(&client, app).await?;
        let auth_app_id = None;
        take(
            ask(Subject {
                app_id,
                auth_app_id,
            })
            .await?,
        )?;
    }
    match refused + unasked {
        0 => Ok(()),
        some => {
            let text = format!("{some} subscriptions weren't taken");
            Err(pace::failed(text, unasked, &arguments.form))
        }
    }
}

async fn put(
    client: &AdminClient,
    subject: &Subject,
    topics: &[String],
) -> Result<Page<SubscriptionView>, Failure> {
    let body = json!({"topics": topics, "auth_app_id": subject.auth_app_id});
    let path = format!("/api/apps/{}/subscriptions", subject.app_id);
    let body = body.to_string().into_bytes();
    client.change(Method::POST, &path, body).await
}

fn tell(view: &SubscriptionView, form: &Form) -> Result<(), Failure> {
    if form.json {
        return output::say_json_line(view);
    }
    let whose = match &view.auth_app_id {
        Some(id) => format!("{}/{id}", view.app_id),
        None => view.app_id.clone(),
    };
    let what = match &view.error {
        None => "subscribed",
        Some(error) => error.as_str(),
    };
    output::say_line(format!("{whose}  {}  {what}", view.topic));
    Ok(())
}

const AFTER: &str = "\
Subscribing again does no harm. The same can be done by hand in the console: 开发设置 > 消息服务.
Messages are sent to 应用网关 (HTTP). Without a subscription a cancellation shows only in the calls
that fail, and by `merchant verify`.";
