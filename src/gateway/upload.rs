//! Uploads: the files of a call and the body that carries them.

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use http_body_util::StreamBody;
use hyper::body::Frame;

use crate::net::body::BoxError;
use crate::net::spool::Spooled;
use crate::protocol::charset::CharsetLabel;
use crate::protocol::error::ProtocolError;
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
    files: Vec<(Bytes, Spooled)>,
}

type Frames = BoxStream<'static, Result<Frame<Bytes>, BoxError>>;

impl UploadBody {
    /// The body for these text parameters and files, all written in one charset.
    ///
    /// # Errors
    /// [`ProtocolError::ParameterCharacterMissing`] where the charset lacks a character.
    pub(crate) fn new<'a>(
        charset: CharsetLabel,
        texts: impl Iterator<Item = (&'a str, &'a str)>,
        files: &[FilePart],
    ) -> Result<Self, ProtocolError> {
        // Unique, and unknown to whoever made the files.
        let layout = Layout::new(uuid::Uuid::now_v7().as_u128()).in_charset(charset);
        let texts: Vec<_> = texts
            .map(|(name, value)| layout.text(name, value))
            .collect::<Result<_, _>>()?;
        let files: Vec<_> = files
            .iter()
            .map(|file| Ok((before(&layout, file)?.into(), file.content.clone())))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            layout,
            texts: texts.concat().into(),
            files,
        })
    }

    /// The body of a v3 upload, in UTF-8: one JSON part, then the files.
    ///
    /// # Errors
    /// None: UTF-8 has every character.
    pub(crate) fn with_json(
        (name, json): (&str, &str),
        files: &[FilePart],
    ) -> Result<Self, ProtocolError> {
        let empty = Self::new(CharsetLabel::default(), std::iter::empty(), files)?;
        Ok(Self {
            texts: empty.layout.json(name, json).into(),
            ..empty
        })
    }

    pub(crate) fn content_type(&self) -> String {
        self.layout.content_type()
    }

    /// How many bytes the whole has.
    pub(crate) fn len(&self) -> u64 {
        let files = self.files.iter().map(|(before, content)| {
            let around = before.len() + Layout::AFTER_FILE.len();
            (around as u64).saturating_add(content.len())
        });
        let ends = (self.texts.len() + self.layout.end().len()) as u64;
        files.fold(ends, u64::saturating_add)
    }

    /// The bytes, from the first on.
    pub(crate) fn read(&self) -> StreamBody<Frames> {
        let piece = |bytes: Bytes| stream::iter([Ok(bytes)]).boxed();
        let mut pieces = vec![piece(self.texts.clone())];
        for (before, content) in &self.files {
            pieces.push(piece(before.clone()));
            pieces.push(content.read());
            pieces.push(piece(Layout::AFTER_FILE.into()));
        }
        pieces.push(piece(self.layout.end().into()));
        let frames = stream::iter(pieces)
            .flatten()
            .map(|piece| piece.map(Frame::data).map_err(BoxError::from));
        StreamBody::new(frames.boxed())
    }
}

fn before(layout: &Layout, file: &FilePart) -> Result<Vec<u8>, ProtocolError> {
    layout.before_file(&FileHead {
        name: &file.name,
        file_name: &file.file_name,
        content_type: &file.content_type,
    })
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use crate::net::room::Room;
    use crate::net::spool::{IN_MEMORY, Spool};

    #[tokio::test]
    async fn the_announced_length_is_that_of_the_bytes() {
        let labels = ["utf-8", "GBK"].into_iter().cycle();
        for (size, label) in [0, 1, 300_000, 300_001].into_iter().zip(labels) {
            let mut spool = Spool::new(IN_MEMORY, Room::new(0));
            spool.push(&vec![7; size]).await.expect("room");
            let file = FilePart {
                name: "image_content".to_owned(),
                file_name: "海.png".to_owned(),
                content_type: "image/png".to_owned(),
                content: spool.finish().await.expect("room"),
            };
            let texts = [("image_type", "png"), ("image_name", "海底捞")];
            let charset = CharsetLabel::parse(label).expect("a charset");
            let body = UploadBody::new(charset, texts.into_iter(), &[file.clone(), file]);
            let body = body.expect("writable");
            let whole = BodyExt::collect(body.read()).await.expect("readable");
            let bytes = whole.to_bytes();
            assert_eq!(bytes.len() as u64, body.len(), "{size}");
        }
    }
}
