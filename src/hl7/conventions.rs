//! What one hospital says of its HL7 v2 messages, which the standard leaves to whoever connects two systems: the `hl7_v2`
//! part of mapping.json.

use std::collections::HashMap;

use jiff::tz::{Offset, TimeZone};
use serde::Deserialize;

use super::CODING_SYSTEM;
use super::charset::Charset;
use crate::escape::percent;

/// As it stands in mapping.json; profiles/mapping.schema.json describes it.
#[derive(Debug, Deserialize)]
pub struct Said {
    patient_identifier: PatientIdentifierSaid,
    zone: Option<String>,
    character_set: Option<String>,
    #[serde(default)]
    coding_systems: Vec<CodingSystemSaid>,
    #[serde(default)]
    accession: AccessionField,
    #[serde(default)]
    time_of_result: TimeField,
    #[serde(default)]
    numbers_as_text: bool,
}

#[derive(Debug, Deserialize)]
struct PatientIdentifierSaid {
    authority: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
}

#[derive(Debug, Deserialize)]
struct CodingSystemSaid {
    name: String,
    system: String,
}

/// Which field holds the accession number that the mapping's result key names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum AccessionField {
    /// Placer order number.
    #[serde(rename = "OBR-2")]
    Obr2,
    /// Filler order number.
    #[default]
    #[serde(rename = "OBR-3")]
    Obr3,
    /// Placer field 1.
    #[serde(rename = "OBR-18")]
    Obr18,
    /// Filler field 1.
    #[serde(rename = "OBR-20")]
    Obr20,
}

impl AccessionField {
    pub const fn number(self) -> usize {
        match self {
            AccessionField::Obr2 => 2,
            AccessionField::Obr3 => 3,
            AccessionField::Obr18 => 18,
            AccessionField::Obr20 => 20,
        }
    }
}

/// Which field says when a specimen was taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum TimeField {
    /// The result's own time, else the order's.
    #[default]
    #[serde(rename = "OBX-14")]
    Obx14,
    /// The order's alone: for laboratories that put the time of analysis into OBX-14.
    #[serde(rename = "OBR-7")]
    Obr7,
}

/// What a hospital says of its messages, compiled.
#[derive(Debug)]
pub struct Conventions {
    /// Namespace or universal id of the authority in PID-3 whose identifier is the Patient id.
    pub authority: Option<String>,
    /// Its type in PID-3, such as `MR`.
    pub identifier_type: Option<String>,
    /// Of times that are written without one.
    pub zone: Option<TimeZone>,
    /// Of messages that name none.
    pub charset: Option<Charset>,
    /// FHIR systems by their v2 names.
    coding_systems: HashMap<String, String>,
    pub accession: AccessionField,
    /// Identifier system of the result key, where the mapping has one.
    pub accession_system: Option<String>,
    pub time_of_result: TimeField,
    pub reads_numbers_in_text: bool,
    /// Whether this mapping makes stays of Encounters.
    pub takes_stays: bool,
}

/// What cannot be used: JSON pointer below `hl7_v2`, what is wrong, what to do.
pub type Unusable = (String, String, &'static str);

impl Conventions {
    /// `zone_of_site` is used where the part names none itself.
    pub fn compile(said: &Said, zone_of_site: Option<&str>, accession_system: Option<&str>, takes_stays: bool) -> Result<Conventions, Vec<Unusable>> {
        let mut unusable = Vec::new();
        let zone = said.zone.as_deref().or(zone_of_site).and_then(|name| {
            let zone = zone(name);
            if zone.is_none() {
                let hint = "use an IANA name such as Asia/Taipei, or an offset such as +08:00";
                unusable.push(("/zone".to_owned(), format!("`{name}` is not a time zone that is known here"), hint));
            }
            zone
        });
        let charset = said.character_set.as_deref().and_then(|name| {
            let charset = Charset::named(name);
            if charset.is_none() {
                let hint = "use a name of HL7 table 0211, such as UNICODE UTF-8, 8859/1 or BIG-5";
                unusable.push(("/character_set".to_owned(), format!("`{name}` is not a character set that is read"), hint));
            }
            charset
        });
        let mut coding_systems: HashMap<String, String> =
            STANDARD_SYSTEMS.iter().map(|(name, system)| (folded(name), (*system).to_owned())).collect();
        let mut named = HashMap::new();
        for (index, CodingSystemSaid { name, system }) in said.coding_systems.iter().enumerate() {
            if let Some(first) = named.insert(folded(name), index) {
                let message = format!("the coding system `{name}` is listed twice, first at /hl7_v2/coding_systems/{first}");
                unusable.push((format!("/coding_systems/{index}"), message, "keep one of the two"));
            }
            coding_systems.insert(folded(name), system.clone());
        }
        if !unusable.is_empty() {
            return Err(unusable);
        }
        Ok(Conventions {
            authority: said.patient_identifier.authority.clone(),
            identifier_type: said.patient_identifier.kind.clone(),
            zone,
            charset,
            coding_systems,
            accession: said.accession,
            accession_system: accession_system.map(str::to_owned),
            time_of_result: said.time_of_result,
            reads_numbers_in_text: said.numbers_as_text,
            takes_stays,
        })
    }

    /// The FHIR system of a coding system by its v2 name, where it is known.
    pub fn known_system(&self, name: &str) -> Option<&str> {
        self.coding_systems.get(&folded(name)).map(String::as_str)
    }

    /// The same; of a name that nobody knows an address of our own making, which [`Conventions::meant_by`] resolves once the
    /// mapping knows it.
    pub(super) fn system(&self, name: &str) -> String {
        self.known_system(name).map_or_else(|| format!("{CODING_SYSTEM}{}", percent(&folded(name))), str::to_owned)
    }

    /// Addresses of our own making for the names that the mapping knows, with the systems they stand for.
    pub fn meant_by(&self) -> impl Iterator<Item = (String, &str)> {
        self.coding_systems.iter().map(|(name, system)| (format!("{CODING_SYSTEM}{}", percent(name)), system.as_str()))
    }
}

/// Names of HL7 table 0396 that every site means alike.
const STANDARD_SYSTEMS: [(&str, &str); 8] = [
    ("LN", "http://loinc.org"),
    ("SCT", "http://snomed.info/sct"),
    ("SNM", "http://snomed.info/sct"),
    ("UCUM", "http://unitsofmeasure.org"),
    ("I10", "http://hl7.org/fhir/sid/icd-10"),
    ("I10C", "http://hl7.org/fhir/sid/icd-10-cm"),
    ("ICD10CM", "http://hl7.org/fhir/sid/icd-10-cm"),
    ("NCI", "http://ncicb.nci.nih.gov/xml/owl/EVS/Thesaurus.owl"),
];

fn folded(name: &str) -> String {
    name.trim().to_ascii_uppercase()
}

/// A zone by its IANA name, or a fixed offset.
fn zone(name: &str) -> Option<TimeZone> {
    let Some((sign, digits)) = name.split_at_checked(1).filter(|(sign, _)| matches!(*sign, "+" | "-")) else { return TimeZone::get(name).ok() };
    let (hours, minutes) = digits.split_once(':')?;
    let seconds = (hours.parse::<i32>().ok()? * 60 + minutes.parse::<i32>().ok()?) * 60;
    Some(TimeZone::fixed(Offset::from_seconds(if sign == "-" { -seconds } else { seconds }).ok()?))
}
