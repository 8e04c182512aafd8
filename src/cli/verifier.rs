//! Who verifies what is kept: a running sidecar, or, when none runs, one that is put together for it
//! and never listens. The keys make the verdict, so that the store alone isn't enough.

use http::Method;

use crate::admin::inbox::{EntryView, ReverifyReport};
use crate::cli::admin_client::{AdminClient, encoded};
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::sidecar::Sidecar;

/// Who verifies.
pub(crate) enum Verifier {
    /// Nobody runs: a sidecar that doesn't listen.
    Here(Sidecar),
    /// A running sidecar holds the store.
    Running(AdminClient),
}

impl Verifier {
    /// The running sidecar of this configuration, or one made of it.
    pub(crate) async fn of(context: &Context) -> Result<Self, Failure> {
        let config = context.load_to_serve([])?;
        let client = AdminClient::new(&config);
        if client.is_running().await? {
            return Ok(Self::Running(client));
        }
        Ok(Self::Here(Sidecar::builder(config).build().await?))
    }

    pub(crate) async fn reverify(&self, id: Option<&str>) -> Result<ReverifyReport, Failure> {
        match self {
            Self::Here(sidecar) => Ok(sidecar.reverify(id).await?),
            Self::Running(client) => {
                let path = match id {
                    Some(id) => format!("/api/inbox/{}/reverify", encoded(id)),
                    None => "/api/inbox/reverify".to_owned(),
                };
                client.change(Method::POST, &path, Vec::new()).await
            }
        }
    }

    pub(crate) async fn explain(&self, id: &str) -> Result<EntryView, Failure> {
        match self {
            Self::Here(sidecar) => Ok(sidecar.explain(id).await?),
            Self::Running(client) => {
                let path = format!("/api/inbox/{}?explain=true", encoded(id));
                client.get(&path).await
            }
        }
    }
}
