//! The store as a whole: its copy, its numbers, a look at every record.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response};
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};

use crate::admin::error::AdminError;
use crate::admin::problem::Problem;
use crate::net::body::BoxError;
use crate::store::Store;
use crate::store::care::RowStream;

/// Where a copy of the store is had. It streams: a path chosen by the caller would let whoever has
/// the token write files as the sidecar.
pub(crate) const BACKUP: &str = "/api/store/backup";

/// The body of an answer.
#[derive(Debug)]
pub enum AdminBody {
    /// The rows of a backup, as they are read.
    Rows(RowStream),
    /// All that there is.
    Whole(Full<Bytes>),
}

impl Body for AdminBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Rows(rows) => rows
                .poll_next(context)
                .map(|piece| piece.map(|piece| Ok(Frame::data(piece?)))),
            Self::Whole(whole) => Pin::new(whole)
                .poll_frame(context)
                .map(|frame| frame.map(|frame| frame.map_err(|never| match never {}))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Rows(_) => false,
            Self::Whole(whole) => whole.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Rows(_) => SizeHint::default(),
            Self::Whole(whole) => whole.size_hint(),
        }
    }
}

/// Begins a copy.
pub(super) async fn backup(store: &dyn Store) -> Result<Response<AdminBody>, Problem> {
    let rows = store.backup().await.map_err(AdminError::from)?;
    let mut response = Response::new(AdminBody::Rows(rows));
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}
