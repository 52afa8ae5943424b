//! Where all subjects of one study at one site stand: who may be told about together.

use serde::de::DeserializeOwned;

use super::{StoreError, Tx, screening};
use crate::rules::SubjectState;
use crate::writeback::Standing;

const SQL_STANDINGS: &str =
    "SELECT subject, prescreen, state, hidden FROM screening WHERE study = $1 AND site = $2 AND state <> 'none' ORDER BY subject";

/// Everybody of whom a study says more than nothing at a site, in order.
pub fn of_study(tx: &mut Tx<'_>, site: &str, study: &str) -> Result<Vec<(String, Standing)>, StoreError> {
    let mut all = Vec::new();
    for row in tx.query(SQL_STANDINGS, &[study.into(), site.into()])? {
        let subject = row.string(0)?;
        let state: SubjectState = of_word(row.text(2)?)?;
        let was_enrolled = match state {
            SubjectState::Enrolled | SubjectState::OnFollowUp | SubjectState::Completed | SubjectState::Lost => true,
            SubjectState::None | SubjectState::Candidate | SubjectState::Consented | SubjectState::Eligible | SubjectState::ScreenFailed => false,
            // The word does not tell; the judgement does.
            SubjectState::Withdrawn | SubjectState::Deceased => {
                screening::card(tx, site, &subject, study)?.is_some_and(|card| card.assessment.was_enrolled)
            }
        };
        let hidden = row.optional_string(3)?.map(|word| of_word(&word)).transpose()?;
        all.push((subject, Standing { hidden, prescreen: of_word(row.text(1)?)?, state, was_enrolled }));
    }
    Ok(all)
}

/// The plain enum that has this word in JSON.
fn of_word<T: DeserializeOwned>(word: &str) -> Result<T, StoreError> {
    serde_json::from_str(&format!("\"{word}\""))
        .map_err(|_| StoreError::Broken("a subject is listed in a state that this program does not know".into()))
}
