//! NDJSON by `$ingest`: read as it comes, taken in parts, answered line by line. A part that was taken stays taken when
//! a later one fails; sending all again adds nothing.

use actix_web::{HttpRequest, HttpResponse, web};
use rayon::prelude::*;

use super::{Door, answer_bundle, blocking, bundle, prepare};
use crate::catalogue::Catalogue;
use crate::fhir::build::parts::BundleEntry;
use crate::fhir::bundle::split;
use crate::http::body::{Body, large_place};
use crate::http::error::Refusal;
use crate::issue::{Code, Disposition, Issue};
use crate::pipeline::entries::Asked;
use crate::store::ledger::Prepared;

/// Bytes that are prepared and committed together.
const PART_BYTES: usize = 4 << 20;

pub async fn take(door: &Door, request: &HttpRequest, payload: web::Payload) -> Result<HttpResponse, Refusal> {
    let limits = &door.limits;
    let mut body = Body::open(request, payload, limits.ndjson_bytes, limits)?;
    let _place = large_place(limits).await?;
    let mut answers = Vec::new();
    let mut buffer: Vec<u8> = Vec::new();
    let mut line = 1;
    loop {
        let piece = body.next().await.map_err(|refusal| up_to(refusal, line))?;
        let is_end = piece.is_none();
        buffer.extend_from_slice(piece.as_deref().unwrap_or_default());
        if !is_end && buffer.len() < PART_BYTES {
            continue;
        }
        let whole_lines = if is_end { buffer.len() } else { buffer.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1) };
        if whole_lines == 0 && buffer.len() > limits.single_bytes {
            return Err(up_to(Refusal::rejected(vec![Issue::new(Code::TooLarge, "")]), line));
        }
        let rest = buffer.split_off(whole_lines);
        let part = std::mem::replace(&mut buffer, rest);
        if !part.is_empty() {
            line += take_part(door, part, line, limits.single_bytes, &mut answers).await.map_err(|refusal| up_to(refusal, line))?;
        }
        if is_end {
            return answer_bundle("batch-response", answers);
        }
    }
}

/// Says which lines were taken before it went wrong.
fn up_to(mut refusal: Refusal, line: usize) -> Refusal {
    if line > 1 {
        refusal.hint = format!("lines 1 to {} were taken; {}", line - 1, refusal.hint).into();
        // The issue alone would not say so.
        refusal.issues.clear();
    }
    refusal
}

/// Takes whole lines; answers how many there were.
async fn take_part(door: &Door, part: Vec<u8>, first_line: usize, single_bytes: usize, answers: &mut Vec<BundleEntry>) -> Result<usize, Refusal> {
    let (pipeline, site) = (door.pipeline.clone(), door.site.clone());
    let (count, prepared) = blocking(move || {
        let catalogue = &pipeline.catalogue;
        let lines: Vec<(usize, &[u8])> = part.split(|byte| *byte == b'\n').enumerate().collect();
        let count = lines.len() - usize::from(part.ends_with(b"\n"));
        let prepared: Vec<(usize, Vec<Asked>)> = lines
            .into_par_iter()
            .map(|(index, bytes)| (first_line + index, bytes.strip_suffix(b"\r").unwrap_or(bytes)))
            .filter(|(_, bytes)| !bytes.iter().all(u8::is_ascii_whitespace))
            .map(|(line, bytes)| {
                let too_large = bytes.len() > single_bytes;
                let asked = if too_large {
                    alone(Prepared::rejected("-", bytes, &catalogue.sites[&site].hash, vec![Issue::new(Code::TooLarge, "")]))
                } else {
                    ask(catalogue, &site, bytes)
                };
                (line, asked)
            })
            .collect();
        (count, prepared)
    })
    .await?;
    let (lines, asked): (Vec<usize>, Vec<Asked>) =
        prepared.into_iter().flat_map(|(line, asked)| asked.into_iter().map(move |asked| (line, asked))).unzip();
    let became = bundle::take_all(door, asked).await?;
    for (line, became) in lines.into_iter().zip(&became) {
        let mut entry = became.answer(door);
        // Blank lines have no entry, and a Bundle has several, so each entry names its line.
        entry.full_url = Some(format!("urn:nephrogate:line:{line}"));
        answers.push(entry);
    }
    Ok(count)
}

/// What a line asks for: to be taken, or, where it is a Bundle, what each of its entries does.
fn ask(catalogue: &Catalogue, site: &str, line: &[u8]) -> Vec<Asked> {
    let message = prepare(catalogue, site, line);
    if message.resource_type != "Bundle" || message.disposition == Disposition::Rejected {
        return alone(message);
    }
    match split(line) {
        Ok(bundle) => bundle::ask(catalogue, site, &bundle),
        Err(issue) => alone(message.into_rejected(issue)),
    }
}

fn alone(message: Prepared) -> Vec<Asked> {
    vec![Asked::Message { message: Box::new(message), is_put: false }]
}
