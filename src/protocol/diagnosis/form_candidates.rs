//! The sign contents that a form may have been signed over, the likeliest first.

use super::{
    cause::{Cause, ParamsCause},
    fields::{Fields, Order, Reading},
    forms::{Form, Kind},
    outlines::Outline,
    repairs::{self, Repaired},
    search::Candidate,
    work::GBK,
};
use crate::protocol::{charset::Charset, form};

/// Lists every sign content worth trying, the likeliest first; `None` stands for one that can't be
/// written. Each is made when it is asked for.
pub(super) fn candidates(form: &Form) -> impl Iterator<Item = Option<Candidate>> {
    let readings = readings(form.kind);
    let plain = writable(form).flat_map(move |outline| {
        let readings = readings.clone().into_iter();
        readings.map(move |(causes, reading)| candidate(outline, &outline.fields, causes, reading))
    });
    let kind = form.kind;
    let repaired = move |outline: &Outline, (causes, fields): Repaired| {
        let usual = usual_readings(kind).into_iter();
        let made = usual.map(|(more, reading)| {
            let causes = causes.iter().cloned().chain(more).collect();
            candidate(outline, &fields, causes, reading)
        });
        made.collect::<Vec<_>>()
    };
    let cheap_single = writable(form).flat_map(move |outline| {
        cheap(&outline.fields).flat_map(move |repair| repaired(outline, repair))
    });
    let first = first(form).into_iter();
    let of_values = first.flat_map(move |outline| {
        repairs::of_each(&outline.fields).flat_map(move |repair| repaired(outline, repair))
    });
    plain
        .chain(signer_mistakes(form))
        .chain(cheap_single)
        .chain(of_values)
        .chain(doubles(form))
}

/// Lists the sign contents of the strict reader's outline that are no mistake.
pub(super) fn rightful(form: &Form) -> impl Iterator<Item = Vec<u8>> {
    let outline = first(form).filter(|outline| outline.causes.is_empty());
    let readings = readings(form.kind).into_iter();
    let readings = readings.filter(|(causes, _)| causes.is_empty());
    let made = readings.filter_map(move |(causes, reading)| {
        let outline = outline?;
        candidate(outline, &outline.fields, causes, reading)
    });
    made.map(|candidate| candidate.content)
}

fn writable(form: &Form) -> impl Iterator<Item = &Outline> {
    form.outlines.iter().filter(|outline| outline.is_writable())
}

/// The strict reader's outline, if it can have been signed.
fn first(form: &Form) -> Option<&Outline> {
    form.outlines
        .first()
        .filter(|outline| outline.is_writable())
}

/// The changes that touch all parameters, or leave one out, or put one back.
fn cheap(fields: &Fields) -> impl Iterator<Item = Repaired> {
    repairs::of_all(fields)
        .chain(repairs::without_each(fields))
        .chain(repairs::with_dropped(fields))
}

/// Takes two changes back, the cheap ones first: one of all parameters and then another, two
/// parameters left out, one of all parameters and then one of a single value.
fn doubles(form: &Form) -> impl Iterator<Item = Option<Candidate>> {
    let rule = form.rule();
    first(form).into_iter().flat_map(move |outline| {
        let pairs = repairs::without_pairs(&outline.fields);
        after_all(&outline.fields, |fields| {
            fields.work().while_left(cheap(fields)).collect()
        })
        .chain(pairs)
        .chain(after_all(&outline.fields, |fields| {
            fields.work().while_left(repairs::of_each(fields)).collect()
        }))
        .map(move |(causes, fields)| candidate(outline, &fields, causes, rule))
    })
}

/// Takes a change of all parameters back, and then what `second` says.
fn after_all(
    fields: &Fields,
    second: impl Fn(&Fields) -> Vec<Repaired>,
) -> impl Iterator<Item = Repaired> {
    let first = repairs::of_all(fields);
    first.flat_map(move |(causes, fields)| {
        let found = second(&fields).into_iter();
        found.map(move |(more, fields)| ([causes.clone(), more].concat(), fields))
    })
}

/// What signers of requests get wrong, seen from the receiving side.
fn signer_mistakes(form: &Form) -> impl Iterator<Item = Option<Candidate>> {
    let is_request = form.kind == Kind::Request;
    let outline = first(form).filter(|_| is_request);
    outline.into_iter().flat_map(move |outline| {
        let rule = Reading::REQUEST;
        let encoded = outline
            .fields
            .map(|value| form::escape(value, outline.charset).unwrap_or_else(|_| value.to_owned()));
        let form_encoded = encoded
            .as_ref()
            .and_then(|fields| fields.map(|value| value.replace("%20", "+")));
        let query = outline
            .fields
            .keep(|name, _| form.query.get(name).is_some());
        let encoded = [encoded, form_encoded].into_iter().flatten();
        encoded
            .map(move |fields| {
                let causes = vec![ParamsCause::SignedEncoded.into()];
                candidate(outline, &fields, causes, rule)
            })
            .chain([candidate(
                outline,
                &query,
                vec![ParamsCause::QueryAlone.into()],
                rule,
            )])
    })
}

fn candidate(
    outline: &Outline,
    fields: &Fields,
    causes: Vec<Cause>,
    reading: Reading,
) -> Option<Candidate> {
    let content = reading.content(fields);
    if outline.charset == Charset::Gbk {
        fields.work().charge(GBK * content.len());
    }
    Some(Candidate {
        content: outline.charset.encode(&content).ok()?,
        causes: outline.causes.iter().cloned().chain(causes).collect(),
    })
}

/// The readings that aren't mistakes of whoever verifies, or are the commonest.
fn usual_readings(kind: Kind) -> Vec<(Vec<Cause>, Reading)> {
    let rule = match kind {
        Kind::Notification => Reading::NOTIFICATION,
        Kind::Request => return vec![(Vec::new(), Reading::REQUEST)],
    };
    let kept = Reading {
        with_sign_type: true,
        ..rule
    };
    vec![(Vec::new(), rule), (Vec::new(), kept)]
}

/// Every reading, each with what is unusual about it. Whether `sign_type`, empty values and
/// `alipay_cert_sn` take part is disputed for notifications, so there it is no cause.
fn readings(kind: Kind) -> Vec<(Vec<Cause>, Reading)> {
    let mut found = Vec::new();
    for order in [Order::Bytes, Order::Arrival, Order::Letters] {
        for with_certificate in [true, false] {
            for with_empty in [false, true] {
                for flip in [false, true] {
                    let reading = Reading {
                        with_sign_type: flip != (kind == Kind::Request),
                        with_empty,
                        with_certificate,
                        order,
                    };
                    found.push((unusual(kind, reading), reading));
                }
            }
        }
    }
    found
}

fn unusual(kind: Kind, reading: Reading) -> Vec<Cause> {
    let mut causes: Vec<Cause> = Vec::new();
    if kind == Kind::Request {
        if !reading.with_sign_type {
            causes.push(ParamsCause::SignTypeDropped.into());
        }
        if reading.with_empty {
            causes.push(ParamsCause::EmptyValuesKept.into());
        }
    }
    match reading.order {
        Order::Arrival => causes.push(ParamsCause::NotSorted.into()),
        Order::Bytes => {}
        Order::Letters => causes.push(ParamsCause::SortedByLetters.into()),
    }
    causes
}
