//! Uploads: the files of a call and the body that carries them.

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use http_body_util::StreamBody;
use hyper::body::Frame;

use crate::net::body::BoxError;
use crate::net::spool::Spooled;
use crate::protocol::multipart::{FileHead, Layout};

/// One file of a call.
#[derive(Debug, Clone)]
pub struct FilePart {
    /// The parameter's name.
    pub name: String,
    /// The file's name.
    pub file_name: String,
    /// Its declared type.
    pub content_type: String,
    /// Its bytes.
    pub content: Spooled,
}

/// A multipart body that is read while it is sent, with its exact length known before.
#[derive(Debug, Clone)]
pub(crate) struct UploadBody {
    layout: Layout,
    texts: Bytes,
    files: Vec<FilePart>,
}

type Frames = BoxStream<'static, Result<Frame<Bytes>, BoxError>>;

impl UploadBody {
    /// The body for these text parameters and files.
    pub(crate) fn new<'a>(
        texts: impl Iterator<Item = (&'a str, &'a str)>,
        files: &[FilePart],
    ) -> Self {
        // Unique, and unknown to whoever made the files.
        let layout = Layout::new(uuid::Uuid::now_v7().as_u128());
        let texts: String = texts
            .map(|(name, value)| layout.text(name, value))
            .collect();
        Self {
            layout,
            texts: texts.into(),
            files: files.to_vec(),
        }
    }

    /// The body of a v3 upload: one JSON part, then the files.
    pub(crate) fn with_json((name, json): (&str, &str), files: &[FilePart]) -> Self {
        let empty = Self::new(std::iter::empty(), files);
        Self {
            texts: empty.layout.json(name, json).into(),
            ..empty
        }
    }

    pub(crate) fn content_type(&self) -> String {
        self.layout.content_type()
    }

    /// How many bytes the whole has.
    pub(crate) fn len(&self) -> u64 {
        let files = self.files.iter().map(|file| {
            let around = self.before(file).len() + Layout::AFTER_FILE.len();
            (around as u64).saturating_add(file.content.len())
        });
        let ends = (self.texts.len() + self.layout.end().len()) as u64;
        files.fold(ends, u64::saturating_add)
    }

    /// The bytes, from the first on.
    pub(crate) fn read(&self) -> StreamBody<Frames> {
        let piece = |text: String| stream::iter([Ok(Bytes::from(text))]).boxed();
        let mut pieces = vec![stream::iter([Ok(self.texts.clone())]).boxed()];
        for file in &self.files {
            pieces.push(piece(self.before(file)));
            pieces.push(file.content.read());
            pieces.push(piece(Layout::AFTER_FILE.to_owned()));
        }
        pieces.push(piece(self.layout.end()));
        let frames = stream::iter(pieces)
            .flatten()
            .map(|piece| piece.map(Frame::data).map_err(BoxError::from));
        StreamBody::new(frames.boxed())
    }

    fn before(&self, file: &FilePart) -> String {
        self.layout.before_file(&FileHead {
            name: &file.name,
            file_name: &file.file_name,
            content_type: &file.content_type,
        })
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use crate::net::spool::{IN_MEMORY, Spool};

    #[tokio::test]
    async fn the_announced_length_is_that_of_the_bytes() {
        for size in [0, 1, 300_000] {
            let mut spool = Spool::new(IN_MEMORY);
            spool.push(&vec![7; size]).await.expect("room");
            let file = FilePart {
                name: "image_content".to_owned(),
                file_name: "海.png".to_owned(),
                content_type: "image/png".to_owned(),
                content: spool.finish().await.expect("room"),
            };
            let texts = [("image_type", "png"), ("image_name", "海底捞")];
            let body = UploadBody::new(texts.into_iter(), &[file.clone(), file]);
            let whole = BodyExt::collect(body.read()).await.expect("readable");
            let bytes = whole.to_bytes();
            assert_eq!(bytes.len() as u64, body.len(), "{size}");
        }
    }
}
