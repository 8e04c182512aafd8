//! The parts of an X.509 certificate (RFC 5280, 4.1), cut out of its DER.
//!
//! Only the parts that are used are read, so that an unusual one elsewhere costs no serial number;
//! each is the exact bytes, never encoded again.

use rsa::pkcs8::{
    ObjectIdentifier,
    der::{
        self, AnyRef, Decode, Reader, SliceReader, Tag, TagNumber, Tagged,
        asn1::{BitStringRef, GeneralizedTime, ObjectIdentifier as Oid, OctetStringRef, UtcTime},
    },
};

/// What a certificate consists of. Names, keys and the signed part are DER with their headers.
pub(super) struct Parts<'a> {
    pub(super) signed: &'a [u8],
    /// Two's complement, the sign bit included.
    pub(super) serial: &'a [u8],
    pub(super) issuer: &'a [u8],
    pub(super) validity: &'a [u8],
    pub(super) subject: &'a [u8],
    pub(super) public_key: &'a [u8],
    pub(super) extensions: Extensions<'a>,
    pub(super) algorithm: ObjectIdentifier,
    pub(super) signature: &'a [u8],
}

/// Where the extensions are, if the version has them.
#[derive(Clone, Copy)]
pub(super) enum Extensions<'a> {
    /// Versions 1 and 2, which have none.
    Unknown,
    /// Version 3: the list of them, maybe empty.
    Listed(&'a [u8]),
}

/// Cuts a certificate.
pub(super) fn certificate(certificate: &[u8]) -> der::Result<Parts<'_>> {
    let mut reader = inside(certificate, Tag::Sequence)?;
    let signed = reader.tlv_bytes()?;
    let algorithm = reader.tlv_bytes()?;
    let signature: BitStringRef<'_> = reader.decode()?;
    let signature = signature
        .as_bytes()
        .ok_or_else(|| Tag::BitString.value_error())?;
    reader.finish(())?;
    let mut reader = inside(signed, Tag::Sequence)?;
    let version = explicit(&mut reader, 0)?;
    let serial = AnyRef::decode(&mut reader)?;
    serial.tag().assert_eq(Tag::Integer)?;
    if reader.tlv_bytes()? != algorithm {
        return Err(Tag::Sequence.value_error());
    }
    let mut parts = Parts {
        signed,
        serial: serial.value(),
        issuer: reader.tlv_bytes()?,
        validity: reader.tlv_bytes()?,
        subject: reader.tlv_bytes()?,
        public_key: reader.tlv_bytes()?,
        extensions: Extensions::Unknown,
        algorithm: inside(algorithm, Tag::Sequence)?.decode()?,
        signature,
    };
    // The obsolete unique identifiers of version 2 stand before the extensions.
    while !reader.is_finished() {
        let field = AnyRef::decode(&mut reader)?;
        if field.tag() == context(3) {
            parts.extensions = Extensions::Listed(field.value());
        }
    }
    if matches!(parts.extensions, Extensions::Unknown) && version == Some(V3) {
        parts.extensions = Extensions::Listed(&[]);
    }
    Ok(parts)
}

/// Reads the two dates, in milliseconds since 1970 in UTC.
pub(super) fn validity(validity: &[u8]) -> der::Result<(i64, i64)> {
    let mut reader = inside(validity, Tag::Sequence)?;
    let dates = (date(&mut reader)?, date(&mut reader)?);
    reader.finish(dates)
}

/// Reads `basicConstraints`: `None` if it doesn't make a certificate authority, else how many
/// authorities may stand below (`None`: any number).
pub(super) fn authority(extensions: &[u8]) -> der::Result<Option<Option<u64>>> {
    let Some(mut reader) = basic_constraints(extensions)? else {
        return Ok(None);
    };
    if reader.is_finished() || !reader.decode::<bool>()? {
        return Ok(None);
    }
    if reader.is_finished() {
        return Ok(Some(None));
    }
    let below: u64 = reader.decode()?;
    reader.finish(Some(Some(below)))
}

fn basic_constraints(extensions: &[u8]) -> der::Result<Option<SliceReader<'_>>> {
    if extensions.is_empty() {
        return Ok(None);
    }
    let mut list = inside(extensions, Tag::Sequence)?;
    while !list.is_finished() {
        let mut extension = inside(list.tlv_bytes()?, Tag::Sequence)?;
        if extension.decode::<Oid>()? != BASIC_CONSTRAINTS {
            continue;
        }
        if extension.peek_tag()? == Tag::Boolean {
            extension.tlv_bytes()?;
        }
        let value: OctetStringRef<'_> = extension.decode()?;
        return inside(value.as_bytes(), Tag::Sequence).map(Some);
    }
    Ok(None)
}

/// Opens one element that fills the bytes.
pub(super) fn inside(element: &[u8], tag: Tag) -> der::Result<SliceReader<'_>> {
    let any = AnyRef::from_der(element)?;
    any.tag().assert_eq(tag)?;
    SliceReader::new(any.value())
}

fn explicit<'a>(reader: &mut SliceReader<'a>, number: u8) -> der::Result<Option<&'a [u8]>> {
    if reader.peek_tag()? != context(number) {
        return Ok(None);
    }
    AnyRef::decode(reader).map(|any| Some(any.value()))
}

fn context(number: u8) -> Tag {
    Tag::ContextSpecific {
        constructed: true,
        number: TagNumber::new(number),
    }
}

fn date(reader: &mut SliceReader<'_>) -> der::Result<i64> {
    let since_1970 = match reader.peek_tag()? {
        Tag::UtcTime => reader.decode::<UtcTime>()?.to_unix_duration(),
        _ => reader.decode::<GeneralizedTime>()?.to_unix_duration(),
    };
    i64::try_from(since_1970.as_millis()).map_err(|_| Tag::GeneralizedTime.value_error())
}

/// The DER of the number 2, which means version 3.
const V3: &[u8] = &[0x02, 0x01, 0x02];
const BASIC_CONSTRAINTS: Oid = Oid::new_unwrap("2.5.29.19");
