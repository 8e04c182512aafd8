//! Uploads of backends: `multipart/form-data`, whose text parts are parameters and whose files are
//! kept aside until the call is signed.
//!
//! Every SDK writes its parts differently (Java without spaces, Python with a fixed boundary and a
//! transfer encoding); all are taken, and written anew.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};
use hyper::body::Body;
use multer::{Constraints, Field, Multipart, SizeLimit};

use crate::gateway::upload::FilePart;
use crate::net::body::{BoxError, RoomError};
use crate::net::pieces::in_pieces;
use crate::net::room::{Held, NoRoom, Room};
use crate::net::spool::{IN_MEMORY, Spool};
use crate::protocol::charset::{self, Charset};
use crate::protocol::disposition::Disposition;
use crate::protocol::params::{self, Params};
use crate::proxy::error::{ErrorCode, ProxyError};

/// How many parts an upload may have: APIs take a few files and some dozen parameters.
const PARTS: usize = 100;
/// How many of them may be files: each may hold a descriptor.
const FILES: usize = 10;

/// The body of an upload.
#[derive(Debug)]
pub(super) struct Upload {
    /// The text parts.
    pub(super) parameters: Params,
    /// The files.
    pub(super) files: Vec<FilePart>,
}

/// What an upload may have.
#[derive(Debug, Clone)]
pub(super) struct UploadLimits {
    /// All of it, bytes.
    pub(super) whole: u64,
    /// The text parts together, bytes.
    pub(super) text: usize,
    /// Where all that is held in memory is, among other bodies.
    pub(super) room: Room,
    /// What of that all uploads together may hold of their files beyond [`IN_MEMORY`] each.
    pub(super) spare: Room,
    /// How long it may take to arrive.
    pub(super) deadline: Duration,
}

/// How many bytes may be taken in before a part or a piece of one can be handed on. What has no end
/// is held in memory meanwhile, and searched anew with each piece.
const UNREAD: usize = 2 << 20;

/// An upload while it is read.
#[derive(Clone, Copy)]
struct Reading<'a> {
    limits: &'a UploadLimits,
    unread: &'a Mutex<Unread>,
}

/// What was taken in since something was handed on.
#[derive(Default)]
struct Unread {
    bytes: usize,
    held: Held,
}

impl Reading<'_> {
    fn goes_on(self) {
        *self.unread() = Unread::default();
    }

    /// Counts a piece that comes.
    fn comes(self, piece: &Bytes) -> Result<(), BoxError> {
        let mut unread = self.unread();
        if unread.bytes > UNREAD {
            return Err(BoxError::from("a part, or the head of one, has no end"));
        }
        unread.bytes = unread.bytes.saturating_add(piece.len());
        let taken = self.limits.room.take(piece.len(), &mut unread.held);
        Ok(taken.map_err(RoomError::from)?)
    }

    /// Nothing that can panic runs under the lock.
    fn unread(&self) -> MutexGuard<'_, Unread> {
        self.unread.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a body says that it is one of parts.
pub(super) fn is_multipart(headers: &HeaderMap) -> bool {
    content_type(headers)
        .trim_start()
        .to_ascii_lowercase()
        .starts_with("multipart/")
}

/// Reads an upload whose texts and names are written in `charset`; files over a size go to a nameless
/// file, so memory doesn't grow with them. Gives the room that the rest takes, too.
///
/// # Errors
/// `body-too-large`, `body-invalid`, `overloaded`, `parameter-duplicate`, `internal` (no room for the
/// file).
pub(super) async fn read<B>(
    headers: &HeaderMap,
    charset: Charset,
    body: B,
    limits: UploadLimits,
) -> Result<(Upload, Held), ProxyError>
where
    B: Body<Data = Bytes> + Send,
    B::Error: Into<BoxError>,
{
    if body.size_hint().lower() > limits.whole {
        return Err(too_large(limits.whole));
    }
    let boundary = multer::parse_boundary(content_type(headers))
        .map_err(|_| invalid("it is multipart, but not `multipart/form-data` with a boundary"))?;
    let unread = Mutex::default();
    let reading = Reading {
        limits: &limits,
        unread: &unread,
    };
    let sizes = SizeLimit::new().whole_stream(limits.whole);
    let constraints = Constraints::new().size_limit(sizes);
    let comes = move |frame: &Bytes| reading.comes(frame);
    let collected = in_pieces(body, comes, |pieces| {
        let parts = Multipart::with_constraints(pieces, boundary, constraints);
        collect(parts, charset, reading)
    });
    tokio::time::timeout(limits.deadline, collected)
        .await
        .map_err(|_| invalid("it didn't arrive in time"))?
}

async fn collect(
    mut parts: Multipart<'_>,
    charset: Charset,
    reading: Reading<'_>,
) -> Result<(Upload, Held), ProxyError> {
    let limits = reading.limits;
    let mut upload = Upload {
        parameters: Params::new(),
        files: Vec::new(),
    };
    let (mut left, mut memory) = (limits.text, IN_MEMORY);
    let mut held = Held::default();
    for count in 0.. {
        let next = parts.next_field().await;
        reading.goes_on();
        let Some(field) = next.map_err(|error| broken(&error, limits))? else {
            break;
        };
        if count >= PARTS {
            return Err(invalid("it has more than 100 parts"));
        }
        let disposition = disposition(&field, charset)?;
        if disposition.file_name.is_some() {
            if upload.files.len() >= FILES {
                return Err(invalid("it has more than 10 files"));
            }
            let spool = Spool::new(memory, limits.spare.clone());
            let file = file(disposition, field, (spool, &mut held), reading).await?;
            check_new(&upload, &file.name)?;
            // All files together may hold as much memory as one.
            memory = memory.saturating_sub(file.content.in_memory());
            upload.files.push(file);
        } else {
            let name = disposition.name;
            let value = text(field, (&mut left, &mut held), reading).await?;
            let value = decoded(&value, charset).map_err(|reason| unreadable(&name, &reason))?;
            check_new(&upload, &name)?;
            upload.parameters.push(name, value)?;
        }
    }
    Ok((upload, held))
}

fn check_new(upload: &Upload, name: &str) -> Result<(), ProxyError> {
    let known = upload.files.iter().any(|file| file.name == name);
    if known || upload.parameters.get(name).is_some() {
        return Err(ProxyError::refused(
            ErrorCode::ParameterDuplicate,
            "two parts of the upload have the same name",
        ));
    }
    Ok(())
}

/// What a part says of itself, read here and not by multer, which takes a file whose name isn't
/// UTF-8 for a text.
fn disposition(field: &Field<'_>, charset: Charset) -> Result<Disposition, ProxyError> {
    let header = field.headers().get(CONTENT_DISPOSITION);
    let header = header.map(HeaderValue::as_bytes).unwrap_or_default();
    Disposition::parse(header, charset).map_err(|error| invalid(&error.to_string()))
}

/// The bytes of a text part, and the charset that it says it is in.
async fn text(
    mut field: Field<'_>,
    (left, held): (&mut usize, &mut Held),
    reading: Reading<'_>,
) -> Result<Text, ProxyError> {
    let named = charset::label_of_content_type(content_type(field.headers()));
    let mut bytes = Vec::new();
    while let Some(piece) = next_piece(&mut field, reading).await? {
        let taken = reading.limits.room.take(piece.len(), held);
        taken.map_err(RoomError::from)?;
        *left = left.checked_sub(piece.len()).ok_or_else(|| {
            ProxyError::refused(
                ErrorCode::BodyTooLarge,
                "the text parts together are larger than `proxy.max_body`",
            )
        })?;
        bytes.extend_from_slice(&piece);
    }
    Ok(Text { bytes, named })
}

/// A text part, still as it came.
struct Text {
    bytes: Vec<u8>,
    named: Option<String>,
}

/// Alipay reads every part in the charset of the call, so a part that names another means another
/// text. Plain ASCII is the same text in each (HTTP libraries call it `ISO-8859-1` or `US-ASCII`).
fn decoded(text: &Text, charset: Charset) -> Result<String, String> {
    let label = text.named.as_deref();
    let label = label.unwrap_or_else(|| charset.label());
    let known = Charset::from_label(label).ok();
    let is = |other: &&str| other.eq_ignore_ascii_case(label);
    let is_like_ascii = known.is_some() || ["us-ascii", "iso-8859-1"].iter().any(is);
    if known != Some(charset) && !(is_like_ascii && text.bytes.is_ascii()) {
        let expected = charset.label();
        return Err(format!(
            "its `Content-Type` names another charset than the call, which is in {expected}"
        ));
    }
    charset
        .decode(&text.bytes)
        .map_err(|error| error.to_string())
}

fn unreadable(name: &str, reason: &str) -> ProxyError {
    match params::is_name(name) {
        true => invalid(&format!("part `{name}`: {reason}")),
        false => invalid(&format!("a text part: {reason}")),
    }
}

async fn file(
    disposition: Disposition,
    mut field: Field<'_>,
    (mut spool, held): (Spool, &mut Held),
    reading: Reading<'_>,
) -> Result<FilePart, ProxyError> {
    let declared = field.content_type().map(ToString::to_string);
    let content_type = declared.unwrap_or_else(|| "application/octet-stream".to_owned());
    let mut taken = 0;
    while let Some(piece) = next_piece(&mut field, reading).await? {
        let room = reading.limits.room.take(piece.len(), held);
        room.map_err(RoomError::from)?;
        taken += piece.len();
        spool.push(&piece).await.map_err(|e| no_room(&e))?;
        // What went to the file takes none.
        held.give_back(taken.saturating_sub(spool.in_memory()));
        taken = spool.in_memory();
    }
    let content = spool.finish().await.map_err(|e| no_room(&e))?;
    held.give_back(taken.saturating_sub(content.in_memory()));
    Ok(FilePart {
        name: disposition.name,
        file_name: disposition.file_name.unwrap_or_default(),
        content_type,
        content,
    })
}

async fn next_piece(
    field: &mut Field<'_>,
    reading: Reading<'_>,
) -> Result<Option<Bytes>, ProxyError> {
    let piece = field.chunk().await;
    reading.goes_on();
    piece.map_err(|error| broken(&error, reading.limits))
}

fn content_type(headers: &HeaderMap) -> &str {
    let value = headers.get(CONTENT_TYPE);
    value
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

fn broken(error: &multer::Error, limits: &UploadLimits) -> ProxyError {
    match error {
        multer::Error::StreamReadFailed(why) if why.is::<RoomError>() => {
            RoomError::Full(NoRoom).into()
        }
        multer::Error::StreamReadFailed(why) => invalid(&why.to_string()),
        multer::Error::StreamSizeExceeded { .. } => too_large(limits.whole),
        error => invalid(&error.to_string()),
    }
}

fn too_large(limit: u64) -> ProxyError {
    ProxyError::refused(
        ErrorCode::BodyTooLarge,
        format!("the upload is larger than `proxy.max_upload` ({limit} bytes)"),
    )
}

fn invalid(reason: &str) -> ProxyError {
    ProxyError::refused(
        ErrorCode::BodyInvalid,
        format!("the upload can't be read: {reason}"),
    )
}

fn no_room(error: &io::Error) -> ProxyError {
    complain(error);
    ProxyError::refused(
        ErrorCode::Internal,
        format!(
            "the upload could not be kept in the folder for temporary files: {error}; the call isn't at \
             fault, the sidecar's machine is: make room there, let the sidecar write there, or name \
             another folder by TMPDIR"
        ),
    )
}

/// Tells whoever can mend it; smaller uploads need no file, so nothing else shows it.
fn complain(error: &io::Error) {
    let mut complained = COMPLAINED.lock().unwrap_or_else(PoisonError::into_inner);
    if complained.is_none_or(|at| at.elapsed() >= COMPLAINTS) {
        *complained = Some(Instant::now());
        let folder = std::env::temp_dir();
        tracing::warn!(
            folder = %folder.display(),
            %error,
            "an upload can't be kept in the folder for temporary files, and is refused; make room there, \
             let the sidecar write there, or name another folder by TMPDIR"
        );
    }
}

/// When that was told last. All uploads of the process share one folder.
static COMPLAINED: Mutex<Option<Instant>> = Mutex::new(None);
/// How often it is told.
const COMPLAINTS: Duration = Duration::from_secs(60);
