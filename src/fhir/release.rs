//! What tells the releases of FHIR apart. Five types that are read differ between R4 (with R4B) and R5 in what is read, and
//! no resource says of which release it is; its elements do. The names of the resource types are those of R4
//! (hl7.org/fhir/R4/resourcelist.html): a name that is not among them is a misspelling or another release, and is
//! refused instead of being counted as out of scope.

use super::tree::Tree;
use crate::issue::{Code, Issue};

/// A release of FHIR. In the types that are read, R4B is as R4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    R4,
    R5,
}

/// Elements that only one release has, of the types that changed between them. R5's AdverseEvent always has `status`,
/// R4's never; R4's ResearchSubject always has `individual`, R5's `subject`.
struct Marks {
    r4: &'static [&'static str],
    r5: &'static [&'static str],
}

const ADVERSE_EVENT: Marks = Marks { r4: &["event", "date"], r5: &["status", "code", "occurrenceDateTime", "occurrencePeriod", "occurrenceTiming"] };
const SUSPECT_ENTITY: Marks = Marks { r4: &["instance"], r5: &["instanceReference", "instanceCodeableConcept"] };
const RESEARCH_SUBJECT: Marks =
    Marks { r4: &["individual", "assignedArm", "actualArm"], r5: &["subject", "progress", "assignedComparisonGroup", "actualComparisonGroup"] };

const ENCOUNTER: Marks = Marks {
    r4: &["classHistory", "statusHistory", "period", "reasonCode", "reasonReference", "hospitalization"],
    r5: &["actualPeriod", "plannedStartDate", "plannedEndDate", "reason", "admission", "subjectStatus", "virtualService", "careTeam"],
};
/// R5 5.0.0 spells `occurence`; who read it aloud writes `occurrence`.
const MEDICATION_ADMINISTRATION: Marks = Marks {
    r4: &["medicationCodeableConcept", "medicationReference", "effectiveDateTime", "effectivePeriod", "context", "reasonCode", "reasonReference"],
    r5: &[
        "medication",
        "occurenceDateTime",
        "occurencePeriod",
        "occurenceTiming",
        "occurrenceDateTime",
        "occurrencePeriod",
        "occurrenceTiming",
        "encounter",
        "reason",
        "recorded",
    ],
};
const PROCEDURE: Marks = Marks {
    r4: &[
        "performedDateTime",
        "performedPeriod",
        "performedString",
        "performedAge",
        "performedRange",
        "asserter",
        "reasonCode",
        "reasonReference",
        "complicationDetail",
        "usedReference",
        "usedCode",
    ],
    r5: &[
        "occurrenceDateTime",
        "occurrencePeriod",
        "occurrenceString",
        "occurrenceAge",
        "occurrenceRange",
        "occurrenceTiming",
        "recorded",
        "reportedBoolean",
        "reportedReference",
        "reason",
        "used",
        "focus",
        "supportingInfo",
    ],
};

/// The release that a resource's elements tell: R5 where one is R5's alone, else R4. Elements of both are refused: two
/// readers could take different halves.
pub fn of(resource_type: &str, resource: &Tree<'_>) -> Result<Release, Issue> {
    let mut found = Found { r4: None, r5: None };
    match resource_type {
        "AdverseEvent" => {
            found.look(&ADVERSE_EVENT, resource, "AdverseEvent");
            for (index, suspect) in resource.member("suspectEntity").into_iter().flat_map(Tree::items).enumerate() {
                found.look(&SUSPECT_ENTITY, suspect, &format!("AdverseEvent.suspectEntity[{index}]"));
            }
        }
        "ResearchSubject" => found.look(&RESEARCH_SUBJECT, resource, "ResearchSubject"),
        "Encounter" => {
            found.look(&ENCOUNTER, resource, "Encounter");
            // One Coding in R4, several CodeableConcepts in R5.
            match resource.member("class") {
                Some(Tree::List(_)) => found.r5 = found.r5.take().or_else(|| Some("Encounter.class".to_owned())),
                Some(Tree::Members(_)) => found.r4 = found.r4.take().or_else(|| Some("Encounter.class".to_owned())),
                Some(Tree::Null | Tree::Boolean(_) | Tree::Number(_) | Tree::Text(_)) | None => {}
            }
        }
        "MedicationAdministration" => found.look(&MEDICATION_ADMINISTRATION, resource, "MedicationAdministration"),
        "Procedure" => found.look(&PROCEDURE, resource, "Procedure"),
        _ => {}
    }
    match found {
        Found { r4: Some(r4), r5: Some(r5) } => Err(Issue::new(Code::MixedReleases, r4).with_detail(format!("beside {r5} of R5"))),
        Found { r4: None, r5: Some(_) } => Ok(Release::R5),
        Found { r4: Some(_) | None, r5: None } => Ok(Release::R4),
    }
}

/// Paths of the first element of each release.
struct Found {
    r4: Option<String>,
    r5: Option<String>,
}

impl Found {
    fn look(&mut self, marks: &Marks, element: &Tree<'_>, path: &str) {
        let first = |of: &[&str]| of.iter().find(|name| element.names().any(|member| member == **name)).map(|name| format!("{path}.{name}"));
        self.r4 = self.r4.take().or_else(|| first(marks.r4));
        self.r5 = self.r5.take().or_else(|| first(marks.r5));
    }
}

/// In alphabetical order.
const NAMES: &[&str] = &[
    "Account",
    "ActivityDefinition",
    "AdverseEvent",
    "AllergyIntolerance",
    "Appointment",
    "AppointmentResponse",
    "AuditEvent",
    "Basic",
    "Binary",
    "BiologicallyDerivedProduct",
    "BodyStructure",
    "Bundle",
    "CapabilityStatement",
    "CarePlan",
    "CareTeam",
    "CatalogEntry",
    "ChargeItem",
    "ChargeItemDefinition",
    "Claim",
    "ClaimResponse",
    "ClinicalImpression",
    "CodeSystem",
    "Communication",
    "CommunicationRequest",
    "CompartmentDefinition",
    "Composition",
    "ConceptMap",
    "Condition",
    "Consent",
    "Contract",
    "Coverage",
    "CoverageEligibilityRequest",
    "CoverageEligibilityResponse",
    "DetectedIssue",
    "Device",
    "DeviceDefinition",
    "DeviceMetric",
    "DeviceRequest",
    "DeviceUseStatement",
    "DiagnosticReport",
    "DocumentManifest",
    "DocumentReference",
    "EffectEvidenceSynthesis",
    "Encounter",
    "Endpoint",
    "EnrollmentRequest",
    "EnrollmentResponse",
    "EpisodeOfCare",
    "EventDefinition",
    "Evidence",
    "EvidenceVariable",
    "ExampleScenario",
    "ExplanationOfBenefit",
    "FamilyMemberHistory",
    "Flag",
    "Goal",
    "GraphDefinition",
    "Group",
    "GuidanceResponse",
    "HealthcareService",
    "ImagingStudy",
    "Immunization",
    "ImmunizationEvaluation",
    "ImmunizationRecommendation",
    "ImplementationGuide",
    "InsurancePlan",
    "Invoice",
    "Library",
    "Linkage",
    "List",
    "Location",
    "Measure",
    "MeasureReport",
    "Media",
    "Medication",
    "MedicationAdministration",
    "MedicationDispense",
    "MedicationKnowledge",
    "MedicationRequest",
    "MedicationStatement",
    "MedicinalProduct",
    "MedicinalProductAuthorization",
    "MedicinalProductContraindication",
    "MedicinalProductIndication",
    "MedicinalProductIngredient",
    "MedicinalProductInteraction",
    "MedicinalProductManufactured",
    "MedicinalProductPackaged",
    "MedicinalProductPharmaceutical",
    "MedicinalProductUndesirableEffect",
    "MessageDefinition",
    "MessageHeader",
    "MolecularSequence",
    "NamingSystem",
    "NutritionOrder",
    "Observation",
    "ObservationDefinition",
    "OperationDefinition",
    "OperationOutcome",
    "Organization",
    "OrganizationAffiliation",
    "Parameters",
    "Patient",
    "PaymentNotice",
    "PaymentReconciliation",
    "Person",
    "PlanDefinition",
    "Practitioner",
    "PractitionerRole",
    "Procedure",
    "Provenance",
    "Questionnaire",
    "QuestionnaireResponse",
    "RelatedPerson",
    "RequestGroup",
    "ResearchDefinition",
    "ResearchElementDefinition",
    "ResearchStudy",
    "ResearchSubject",
    "RiskAssessment",
    "RiskEvidenceSynthesis",
    "Schedule",
    "SearchParameter",
    "ServiceRequest",
    "Slot",
    "Specimen",
    "SpecimenDefinition",
    "StructureDefinition",
    "StructureMap",
    "Subscription",
    "Substance",
    "SubstanceNucleicAcid",
    "SubstancePolymer",
    "SubstanceProtein",
    "SubstanceReferenceInformation",
    "SubstanceSourceMaterial",
    "SubstanceSpecification",
    "SupplyDelivery",
    "SupplyRequest",
    "Task",
    "TerminologyCapabilities",
    "TestReport",
    "TestScript",
    "ValueSet",
    "VerificationResult",
    "VisionPrescription",
];

pub fn is_resource_type(name: &str) -> bool {
    NAMES.binary_search(&name).is_ok()
}
