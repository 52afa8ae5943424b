//! The demo hospital's patients: synthetic people, each with a history that shows one thing a screener or an interface
//! engineer meets. Dated relative to the start of the demo, so that the same start gives the same bytes.

use super::resource::{
    AdverseEvent, Causality, Coding, Concept, Condition, Dosage, Encounter, HumanName, Identifier, LOINC, Link, MedicationAdministration, Meta, Note,
    Observation, Patient, Period, Quantity, Reference, ReferenceRange, Registered, ResearchSubject, Resource, SNOMED, Substance, Suspect, coding,
    concept, quantity, to_json,
};
use crate::clinical::date::{Day, MS_PER_DAY};
use crate::clinical::fact::Sex;
use crate::egfr::{self, Equation, Inputs};

const ACT_REASON: &str = "http://terminology.hl7.org/CodeSystem/v3-ActReason";
const CONFIDENTIALITY: &str = "http://terminology.hl7.org/CodeSystem/v3-Confidentiality";

/// Whom the demo speaks of by name: an eGFR between 44 and 45, and those about whom persons had decided.
pub const ON_THE_BOUNDARY: &str = "P1011";
pub const OPTED_OUT: &str = "P1053";
pub const CONSENTED: [&str; 2] = ["P1004", "P1006"];
pub const ENROLLED: [&str; 3] = ["P1047", "P1048", "P1005"];
pub const SCREEN_FAILED: &str = "P1034";
pub const WITHDRAWN: &str = "P1009";

/// Who is in the trial by the hospital's own record: in the high, the middle and the low dose.
pub const TREATED: [&str; 3] = ["P1054", "P1055", "P1056"];

/// Days from that subject's infusion in the high dose to the start.
pub const HIGH_DOSE_DAYS_AGO: i64 = 175;

/// One patient's number, what they show, and everything about them.
pub struct Story {
    pub subject: String,
    pub shows: &'static str,
    pub resources: Vec<Resource>,
    /// What may be sent by hand to see what a correction does.
    pub correction: Option<Resource>,
}

/// All patients of this hospital, dated back from `start_ms`.
pub fn stories(site: &str, start_ms: i64) -> Vec<Story> {
    let hospital = Hospital { today: start_ms.div_euclid(MS_PER_DAY), start_ms, site: site.to_owned() };
    let mut stories = Vec::new();
    passing(&hospital, &mut stories);
    edges(&hospital, &mut stories);
    open_questions(&hospital, &mut stories);
    failing(&hospital, &mut stories);
    laboratory_exclusions(&hospital, &mut stories);
    messages(&hospital, &mut stories);
    events(&hospital, &mut stories);
    records(&hospital, &mut stories);
    treated(&hospital, &mut stories);
    stories.into_iter().map(Person::finish).collect()
}

/// Steady chronic kidney disease: what a trial looks for.
fn passing(hospital: &Hospital, stories: &mut Vec<Person>) {
    let mut lin = hospital.person("P1001", "Lin", "Mei-Hua", Sex::Female, 58, "a plain candidate, everything on file");
    lin.course(&[(760, 41.0), (540, 38.5), (360, 36.2), (180, 34.0), (12, 31.6)]);
    lin.laboratory(12);
    lin.observation(12, "2890-2", "Protein/Creatinine [Mass Ratio] in Urine", quantity("642", "mg/g"));
    lin.offer_correction("1.02");
    stories.push(lin);

    let mut chen = hospital.person("P1002", "Chen", "Kuo-Wei", Sex::Male, 63, "creatinine in umol/L, UPCR in mg/mmol");
    chen.course_in_moles(&[(400, 33.0), (250, 31.0), (120, 29.4), (20, 28.1)]);
    chen.laboratory(20);
    chen.observation(20, "2890-2", "Protein/Creatinine [Mass Ratio] in Urine", quantity("96", "mg/mmol"));
    stories.push(chen);

    let mut wu = hospital.person("P1003", "Wu", "Li-Na", Sex::Female, 71, "local laboratory codes, no LOINC at all");
    for (days, target) in [(500, 26.0), (300, 24.0), (150, 23.1), (9, 22.0)] {
        let value = wu.creatinine_for(target, days);
        wu.push_observation(days, |observation| {
            observation.code = Concept { coding: vec![coding(&hospital.local_codes(), "CREA", Some("Creatinine"))], text: Some("Kreatinin") };
            observation.value_quantity = Some(Quantity { unit: Some("mg/dl"), system: None, code: None, ..quantity(&value, "mg/dL") });
        });
    }
    wu.laboratory(9);
    stories.push(wu);

    let mut huang = hospital.person("P1004", "Huang", "Chih-Ming", Sex::Male, 47, "UACR and HbA1c beside creatinine");
    huang.course(&[(820, 44.8), (610, 43.0), (420, 42.2), (200, 41.0), (30, 39.8)]);
    huang.laboratory(30);
    huang.observation(30, "9318-7", "Albumin/Creatinine [Mass Ratio] in Urine", quantity("318", "mg/g"));
    stories.push(huang);

    let mut tsai = hospital.person("P1005", "Tsai", "Shu-Fen", Sex::Female, 66, "UPCR in three units at three visits");
    tsai.course(&[(700, 30.0), (480, 28.0), (220, 26.5), (40, 25.2)]);
    tsai.laboratory(40);
    for (days, value, unit) in [(480, "880", "mg/g"), (220, "104", "mg/mmol"), (40, "1.02", "mg/mg")] {
        tsai.observation(days, "2890-2", "Protein/Creatinine [Mass Ratio] in Urine", quantity(value, unit));
    }
    stories.push(tsai);

    let mut chang = hospital.person("P1006", "Chang", "Jun-Jie", Sex::Male, 54, "cystatin C and a reported eGFR, both kept, neither decides");
    chang.course(&[(640, 38.0), (410, 36.5), (190, 35.2), (25, 33.9)]);
    chang.laboratory(25);
    chang.observation(25, "33863-2", "Cystatin C [Mass/volume] in Serum or Plasma", quantity("1.84", "mg/L"));
    chang.observation(25, "98979-8", "GFR/BSA pred CKD-EPI 2021 creatinine", quantity("34", "mL/min/{1.73_m2}"));
    chang.observation(190, "33914-3", "GFR/BSA pred MDRD", quantity("33", "mL/min/{1.73_m2}"));
    stories.push(chang);

    let mut yang = hospital.person("P1007", "Yang", "Hui-Ju", Sex::Female, 49, "four ways to ask for protein in urine");
    yang.course(&[(560, 37.0), (330, 35.8), (140, 34.1), (15, 33.0)]);
    yang.laboratory(15);
    yang.observation(15, "2889-4", "Protein [Mass/time] in 24 hour Urine", quantity("1240", "mg/(24.h)"));
    yang.observation(140, "2888-6", "Protein [Mass/volume] in Urine", quantity("88", "mg/dL"));
    yang.push_observation(330, |observation| {
        observation.code = concept(LOINC, "20454-5", "Protein [Presence] in Urine by Test strip");
        observation.value_codeable_concept = Some(Concept { coding: Vec::new(), text: Some("2+") });
    });
    yang.push_observation(560, |observation| {
        observation.code = concept(LOINC, "20454-5", "Protein [Presence] in Urine by Test strip");
        observation.value_string = Some("1+");
    });
    stories.push(yang);

    let mut liu = hospital.person("P1008", "Liu", "Po-Han", Sex::Male, 68, "a urine creatinine beside serum creatinine, not to be mixed up");
    liu.course(&[(450, 29.0), (260, 27.4), (110, 26.0), (18, 24.8)]);
    liu.laboratory(18);
    liu.observation(17, "2161-8", "Creatinine [Mass/volume] in Urine", quantity("94.5", "mg/dL"));
    stories.push(liu);

    let mut hsu = hospital.person("P1009", "Hsu", "Ya-Ting", Sex::Female, 80, "80 years old: the last year that passes");
    hsu.course(&[(600, 34.0), (350, 32.2), (160, 31.0), (22, 30.1)]);
    hsu.laboratory(22);
    stories.push(hsu);

    let mut kao = hospital.person("P1010", "Kao", "Wen-Hsiung", Sex::Male, 61, "only the year of birth is known, so no equation applies");
    kao.born_in_year(61);
    kao.course(&[(520, 22.0), (330, 20.8), (170, 19.6), (14, 18.2)]);
    kao.laboratory(14);
    stories.push(kao);
}

/// On and beside the limits.
fn edges(hospital: &Hospital, stories: &mut Vec<Person>) {
    let mut peng =
        hospital.person("P1011", "Peng", "Ting-Yu", Sex::Male, 60, "44.5: exact, rounded and truncated reading disagree, a person attests");
    peng.course(&[(700, 52.0), (420, 49.0), (210, 46.8), (16, 44.5)]);
    peng.laboratory(16);
    stories.push(peng);

    let mut ho = hospital.person("P1012", "Ho", "Pei-Shan", Sex::Female, 60, "14.7: the lower boundary");
    ho.course(&[(640, 20.0), (380, 18.0), (190, 16.2), (11, 14.7)]);
    ho.laboratory(11);
    stories.push(ho);

    let mut lai = hospital.person("P1013", "Lai", "Cheng-En", Sex::Male, 66, "near miss: 46 and falling");
    lai.course(&[(730, 56.0), (500, 53.0), (280, 49.6), (21, 46.2)]);
    lai.laboratory(21);
    stories.push(lai);

    let mut su = hospital.person("P1014", "Su", "Yi-Chun", Sex::Female, 55, "near miss: just below the range");
    su.course(&[(590, 19.0), (340, 16.6), (150, 15.2), (13, 13.8)]);
    su.laboratory(13);
    stories.push(su);

    let mut fan = hospital.person("P1015", "Fan", "Tzu-Chieh", Sex::Male, 83, "near miss by age: over 80");
    fan.course(&[(610, 33.0), (370, 31.0), (180, 30.2), (19, 29.0)]);
    fan.laboratory(19);
    stories.push(fan);
}

/// What the data cannot tell.
fn open_questions(hospital: &Hospital, stories: &mut Vec<Person>) {
    let mut yu = hospital.person("P1016", "Yu", "Chia-Ling", Sex::Female, 52, "stale: the last creatinine is too old");
    yu.course(&[(900, 36.0), (640, 34.0), (310, 32.0), (205, 31.0)]);
    stories.push(yu);

    let mut pan = hospital.person("P1017", "Pan", "Ming-Tse", Sex::Male, 64, "possible acute kidney injury: a rise within days");
    pan.course(&[(420, 41.0), (200, 40.0), (9, 39.4), (4, 21.5)]);
    stories.push(pan);

    let mut chou = hospital.person("P1018", "Chou", "Shih-Han", Sex::Female, 57, "two creatinines of one draw contradict each other");
    chou.course(&[(480, 40.0), (230, 38.0)]);
    let (low, high) = (chou.creatinine_for(56.0, 10), chou.creatinine_for(28.0, 10));
    chou.observation(10, "2160-0", "Creatinine [Mass/volume] in Serum or Plasma", quantity(&high, "mg/dL"));
    chou.observation(10, "38483-4", "Creatinine [Mass/volume] in Blood", quantity(&low, "mg/dL"));
    stories.push(chou);

    let mut tseng = hospital.person("P1019", "Tseng", "An", Sex::Unknown, 59, "sex not known: no default is taken");
    tseng.course_of(Sex::Female, &[(430, 36.0), (190, 34.0), (17, 33.0)]);
    stories.push(tseng);

    let mut kuo = hospital.person("P1020", "Kuo", "Lin", Sex::Other, 45, "sex recorded as other");
    kuo.course_of(Sex::Male, &[(390, 30.0), (170, 29.0), (23, 28.0)]);
    stories.push(kuo);

    let mut cheng = hospital.person("P1021", "Cheng", "Yu-Hsuan", Sex::Male, 50, "birth date missing");
    cheng.patient.birth_date = None;
    cheng.course(&[(410, 32.0), (180, 31.0), (26, 30.0)]);
    stories.push(cheng);

    let mut shih = hospital.person("P1022", "Shih", "Kai", Sex::Male, 80, "only the year of birth, and 80 or 81 decides");
    shih.born_in_year(81);
    shih.course(&[(470, 35.0), (240, 33.5), (28, 32.0)]);
    stories.push(shih);

    let mut jian = hospital.person("P1023", "Jian", "Hsin-Yi", Sex::Female, 62, "no creatinine at all");
    jian.laboratory(33);
    stories.push(jian);

    let mut ye = hospital.person("P1024", "Ye", "Zhi-Hao", Sex::Male, 56, "history too short: one result");
    ye.course(&[(8, 33.4)]);
    ye.laboratory(8);
    stories.push(ye);

    let mut fang = hospital.person("P1025", "Fang", "Yun", Sex::Female, 67, "reported as a limit: above 1.2 mg/dL decides nothing");
    fang.course(&[(520, 40.0), (260, 38.0)]);
    fang.push_observation(12, |observation| {
        observation.code = creatinine();
        observation.value_quantity = Some(Quantity { comparator: Some(">"), ..quantity("1.2", "mg/dL") });
    });
    stories.push(fang);

    let mut dai = hospital.person("P1026", "Dai", "Jing-Wen", Sex::Female, 61, "a newer result is still preliminary");
    dai.course(&[(540, 39.0), (300, 37.0), (34, 35.5)]);
    let preliminary = dai.creatinine_for(47.0, 2);
    dai.push_observation(2, |observation| {
        observation.status = "preliminary";
        observation.code = creatinine();
        observation.value_quantity = Some(quantity(&preliminary, "mg/dL"));
    });
    dai.laboratory(34);
    stories.push(dai);
}

/// Who plainly does not pass.
fn failing(hospital: &Hospital, stories: &mut Vec<Person>) {
    let mut ong = hospital.person("P1027", "Ong", "Wei-Lun", Sex::Male, 38, "healthy kidneys");
    ong.course(&[(600, 101.0), (200, 98.0), (35, 96.0)]);
    stories.push(ong);

    let mut lo = hospital.person("P1028", "Lo", "Chia-Hui", Sex::Female, 63, "dialysis");
    lo.course(&[(700, 19.0), (410, 17.0), (24, 15.9)]);
    lo.condition("dialysis", 90, SNOMED, "105502003", "Dependence on renal dialysis");
    stories.push(lo);

    let mut tang = hospital.person("P1029", "Tang", "Hao-Yu", Sex::Male, 51, "kidney transplant");
    tang.course(&[(620, 38.0), (330, 37.0), (27, 36.1)]);
    tang.condition("transplant", 2_300, SNOMED, "161665007", "History of renal transplant");
    stories.push(tang);

    let mut kang = hospital.person("P1030", "Kang", "Yu-An", Sex::Male, 17, "a minor: the equation is not for this age");
    kang.course_of_age(Sex::Male, 19, &[(300, 35.0), (29, 34.0)]);
    stories.push(kang);

    let mut bai = hospital.person("P1031", "Bai", "Xin-Rui", Sex::Female, 19, "19: an adult for the equation, too young for the study");
    bai.course(&[(310, 38.0), (150, 37.0), (31, 36.4)]);
    stories.push(bai);

    let mut qiu = hospital.person("P1032", "Qiu", "De-Sheng", Sex::Male, 70, "a value of 60 or more between: not sustained");
    qiu.course(&[(420, 42.0), (190, 66.0), (70, 45.0), (18, 43.0)]);
    stories.push(qiu);

    let mut hsieh = hospital.person("P1033", "Hsieh", "Ching-Yi", Sex::Female, 74, "over 15 mg/dL: a limit whose whole interval fails");
    hsieh.course(&[(380, 13.0), (160, 9.0)]);
    hsieh.push_observation(7, |observation| {
        observation.code = creatinine();
        observation.value_quantity = Some(Quantity { comparator: Some(">"), ..quantity("15.0", "mg/dL") });
    });
    stories.push(hsieh);
}

/// The prescreen passes, the laboratory decides.
fn laboratory_exclusions(hospital: &Hospital, stories: &mut Vec<Person>) {
    let mut gan = hospital.person("P1034", "Gan", "Sheng-Feng", Sex::Male, 59, "HbA1c above 8 %");
    gan.course(&[(520, 37.0), (280, 35.0), (13, 33.5)]);
    gan.laboratory_but(13, &[("4548-4", "9.1")]);
    stories.push(gan);

    let mut nie = hospital.person("P1035", "Nie", "Xiao-Qing", Sex::Female, 53, "HbA1c in mmol/mol");
    nie.course(&[(490, 36.0), (260, 34.0), (16, 32.4)]);
    nie.laboratory_but(16, &[("4548-4", "")]);
    nie.observation(16, "59261-8", "Hemoglobin A1c/Hemoglobin.total in Blood by IFCC protocol", quantity("49", "mmol/mol"));
    stories.push(nie);

    let mut meng = hospital.person("P1036", "Meng", "Guo-Dong", Sex::Male, 65, "ALT over 2.5 times its upper limit");
    meng.course(&[(500, 34.0), (270, 32.0), (12, 31.0)]);
    meng.laboratory_but(12, &[("1742-6", "131")]);
    stories.push(meng);

    let mut xue = hospital.person("P1037", "Xue", "Man-Li", Sex::Female, 69, "platelets too low");
    xue.course(&[(470, 29.0), (250, 28.0), (10, 27.0)]);
    xue.laboratory_but(10, &[("777-3", "84")]);
    stories.push(xue);

    let mut jin = hospital.person("P1038", "Jin", "Tian-Yu", Sex::Male, 48, "liver values without a reference range");
    jin.course(&[(460, 43.0), (240, 42.0), (14, 41.0)]);
    jin.without_ranges = true;
    jin.laboratory(14);
    stories.push(jin);
}

/// What happens to messages: corrected, withdrawn, repeated, or kept aside.
fn messages(hospital: &Hospital, stories: &mut Vec<Person>) {
    let mut ma = hospital.person("P1039", "Ma", "Jian-Guo", Sex::Male, 62, "a decimal slip, corrected later: the verdict turned");
    ma.course(&[(430, 36.0), (210, 34.5)]);
    let right = ma.creatinine_for(32.8, 5);
    ma.push_observation(5, |observation| {
        observation.code = creatinine();
        observation.value_quantity = Some(quantity("0.92", "mg/dL"));
    });
    ma.correct_last("corrected", |observation| observation.value_quantity = Some(quantity(&right, "mg/dL")));
    ma.laboratory(5);
    stories.push(ma);

    let mut dong = hospital.person("P1040", "Dong", "Yue", Sex::Female, 58, "the newest result was entered in error, of another patient");
    dong.course(&[(460, 38.0), (240, 36.0), (41, 34.9)]);
    let wrong = dong.creatinine_for(71.0, 6);
    dong.push_observation(6, |observation| {
        observation.code = creatinine();
        observation.value_quantity = Some(quantity(&wrong, "mg/dL"));
    });
    dong.correct_last("entered-in-error", |_| {});
    stories.push(dong);

    let mut ren = hospital.person("P1041", "Ren", "Bo", Sex::Male, 55, "the same messages twice");
    ren.course(&[(440, 33.0), (220, 31.5), (15, 30.6)]);
    ren.laboratory(15);
    ren.repeat();
    ren.repeat_last_creatinine_under_a_new_id();
    stories.push(ren);

    let mut cao = hospital.person("P1042", "Cao", "Li", Sex::Female, 60, "the newest creatinine has no unit, and none is assumed");
    cao.course(&[(450, 37.0), (230, 35.0), (60, 34.0)]);
    cao.push_observation(6, |observation| {
        observation.code = creatinine();
        observation.value_quantity = Some(Quantity { unit: None, system: None, code: None, ..quantity("1.9", "mg/dL") });
    });
    stories.push(cao);

    let mut shen = hospital.person("P1043", "Shen", "Qi", Sex::Male, 57, "155 mg/dL: umol/L under the wrong unit");
    shen.course(&[(430, 43.0), (210, 42.0), (55, 41.5)]);
    shen.observation(5, "2160-0", "Creatinine [Mass/volume] in Serum or Plasma", quantity("155", "mg/dL"));
    stories.push(shen);

    let mut deng = hospital.person("P1044", "Deng", "Fei", Sex::Male, 49, "a point-of-care code that the mapping does not name");
    deng.course(&[(400, 28.0), (200, 27.0), (50, 26.0)]);
    deng.push_observation(3, |observation| {
        observation.code = Concept { coding: vec![coding(&hospital.local_codes(), "CREA-POC-2", Some("Creatinine, ward"))], text: None };
        observation.value_quantity = Some(quantity("2.9", "mg/dL"));
    });
    stories.push(deng);

    let mut xu = hospital.person("P1045", "Xu", "Rui", Sex::Female, 64, "an eGFR in words, filed under creatinine");
    xu.course(&[(420, 39.0), (200, 37.5), (45, 36.0)]);
    xu.push_observation(4, |observation| {
        observation.code = Concept { text: Some("Estimated GFR"), ..creatinine() };
        observation.value_string = Some("33 (stage3:30-59)");
        observation.note = vec![Note { text: "Reported by <b>analyser 2</b>; \u{202E}txet desrever" }];
    });
    stories.push(xu);

    let mut he = hospital.person("P1046", "He", "Ming", Sex::Male, 66, "a time without a zone is refused, not guessed");
    he.course(&[(410, 31.0), (190, 30.0), (37, 29.0)]);
    he.push_observation(2, |observation| {
        observation.code = creatinine();
        observation.value_quantity = Some(quantity("2.5", "mg/dL"));
        observation.effective_date_time = observation.effective_date_time.replace("+08:00", "");
    });
    he.spoil_last();
    stories.push(he);
}

/// Adverse events, each with axes of its own.
fn events(hospital: &Hospital, stories: &mut Vec<Person>) {
    let mut song = hospital.person("P1047", "Song", "Ya-Wen", Sex::Female, 56, "a mild event, possibly related");
    song.course(&[(480, 36.0), (250, 34.2), (11, 33.1)]);
    song.laboratory(11);
    let mild = Axes { seriousness: Some(("Non-serious", "Non-serious")), severity: "mild", causality: Some("Possible"), outcome: Some("resolved") };
    song.adverse_event("Slow speech", [hospital.at(6, 5), hospital.at(6, 7)], mild);
    stories.push(song);

    let mut jiang = hospital.person("P1048", "Jiang", "Cheng", Sex::Male, 61, "a serious event of moderate severity, unlikely related");
    jiang.course(&[(510, 30.0), (270, 28.5), (17, 27.3)]);
    jiang.laboratory(17);
    let serious = Axes { seriousness: Some(("Serious", "Serious")), severity: "moderate", causality: Some("Unlikely"), outcome: Some("ongoing") };
    jiang.adverse_event("Proteinuria", [hospital.at(8, 5), hospital.at(8, 7)], serious);
    stories.push(jiang);
}

/// Records that must not appear, and records that became one.
fn records(hospital: &Hospital, stories: &mut Vec<Person>) {
    let mut gu = hospital.person("P1049", "Gu", "Zheng", Sex::Male, 72, "deceased: off the list");
    gu.course(&[(500, 33.0), (260, 31.0), (40, 29.0)]);
    gu.patient.deceased_date_time = Some(hospital.at(20, 3));
    stories.push(gu);

    let mut ding = hospital.person("P1050", "Ding", "Ran", Sex::Female, 46, "a restricted record: off the list");
    ding.course(&[(480, 35.0), (240, 33.0), (19, 31.0)]);
    ding.patient.meta.security.push(coding(CONFIDENTIALITY, "R", Some("restricted")));
    stories.push(ding);

    let mut wei = hospital.person("P1051", "Wei", "Lan", Sex::Female, 58, "two records of one person, merged in the second round");
    wei.course(&[(520, 34.0), (290, 32.0)]);
    stories.push(wei);
    let mut other = hospital.person("P1052", "Wei", "Lan", Sex::Female, 58, "the record that was merged away");
    other.course(&[(16, 30.5)]);
    other.merged_into = Some("P1051".into());
    stories.push(other);

    let mut opted = hospital.person("P1053", "Zhong", "Hui", Sex::Female, 54, "opted out by a person: off the list");
    opted.course(&[(500, 37.0), (260, 35.5), (18, 34.0)]);
    opted.laboratory(18);
    stories.push(opted);
}

/// Who entered the trial by the hospital's own record: doses, visits, and what happened since.
fn treated(hospital: &Hospital, stories: &mut Vec<Person>) {
    let [high, middle, low] = TREATED;
    let mut yeh = hospital.person(high, "Yeh", "Shu-Hui", Sex::Female, 52, "in the trial: week 24 overdue, and an event that says too little");
    // The day before the infusion, weeks 2 and 4 on their day, week 12 eleven days late.
    yeh.course(&[(700, 38.0), (440, 36.0), (176, 33.5), (161, 35.0), (147, 36.1), (80, 38.4)]);
    yeh.laboratory(176);
    for (days, upcr) in [(176, "812"), (147, "760"), (80, "655")] {
        yeh.observation(days, "2890-2", "Protein/Creatinine [Mass Ratio] in Urine", quantity(upcr, "mg/g"));
    }
    yeh.infusion(HIGH_DOSE_DAYS_AGO, "High dose", "40");
    yeh.adverse_event("Slow speech", [hospital.at(6, 5), hospital.at(5, 7)], Axes { severity: "mild", ..Axes::default() });
    stories.push(yeh);

    let mut bo = hospital.person(middle, "Bo", "Chia-Wei", Sex::Male, 60, "in the trial: a serious event this morning, its report is due");
    bo.course(&[(620, 31.0), (380, 29.0), (61, 27.2), (46, 28.0)]);
    bo.laboratory(61);
    bo.infusion(60, "Middle dose", "24");
    let serious = Axes { seriousness: Some(("Serious", "Serious")), severity: "moderate", causality: Some("Unlikely"), outcome: Some("recovering") };
    bo.adverse_event("Dehydration", [hospital.hours_ago(9), hospital.hours_ago(5)], serious);
    bo.stay(9);
    stories.push(bo);

    let mut mo = hospital.person(low, "Mo", "Hsiu-Chen", Sex::Female, 47, "in the trial: ALT rose after the infusion, is it an event?");
    mo.course(&[(560, 41.0), (300, 39.4), (41, 37.0), (25, 37.9), (12, 38.8)]);
    mo.laboratory(41);
    mo.laboratory_but(12, &[("1742-6", "131"), ("1920-8", "33"), ("4548-4", "")]);
    mo.infusion(40, "Low dose", "8");
    stories.push(mo);
}

fn creatinine() -> Concept {
    concept(LOINC, "2160-0", "Creatinine [Mass/volume] in Serum or Plasma")
}

/// The hospital and the calendar that everything is dated by.
#[derive(Clone)]
struct Hospital {
    /// Day of the start, in days since 1970 UTC.
    today: i64,
    start_ms: i64,
    site: String,
}

impl Hospital {
    /// The laboratory's own codes and accession numbers; the hospital's mapping.json names the same systems.
    fn local_codes(&self) -> String {
        format!("https://{}.example.org/lab-codes", self.site)
    }

    fn accessions(&self) -> String {
        format!("https://{}.example.org/accession", self.site)
    }

    /// Where the trial office numbers its studies, and the pharmacy its products.
    fn studies(&self) -> String {
        format!("https://{}.example.org/studies", self.site)
    }

    fn pharmacy(&self) -> String {
        format!("https://{}.example.org/pharmacy", self.site)
    }

    /// So many hours before the start, to the minute.
    fn hours_ago(&self, hours: i64) -> String {
        let minutes = (self.start_ms - hours * 3_600_000).div_euclid(60_000) + 8 * 60;
        let (day, minute) = (Day::from_number(minutes.div_euclid(1_440)), minutes.rem_euclid(1_440));
        format!("{day}T{:02}:{:02}:00+08:00", minute / 60, minute % 60)
    }

    /// So many days before the start, at an hour of the early morning there (UTC+8).
    fn at(&self, days_ago: i64, hour: u8) -> String {
        format!("{}T{hour:02}:30:00+08:00", Day::from_number(self.today - days_ago))
    }

    fn person(&self, id: &str, family: &'static str, given: &'static str, sex: Sex, age: i64, shows: &'static str) -> Person {
        // A third of a year past the birthday: the age stays what it says for months, before and after the start.
        let birth = Day::from_number(self.today - age * 1_461 / 4 - 120);
        Person {
            id: id.to_owned(),
            shows,
            sex,
            age,
            hospital: self.clone(),
            without_ranges: false,
            merged_into: None,
            observations: Vec::new(),
            others: Vec::new(),
            correction: None,
            patient: Patient {
                resource_type: "Patient",
                id: id.to_owned(),
                meta: self.meta(1_000, 1),
                active: true,
                name: vec![HumanName { family, given: vec![given] }],
                gender: Some(match sex {
                    Sex::Female => "female",
                    Sex::Male => "male",
                    Sex::Other => "other",
                    Sex::Unknown => "unknown",
                }),
                birth_date: Some(birth.to_string()),
                ..Patient::default()
            },
        }
    }

    fn meta(&self, days_ago: i64, version: u32) -> Meta {
        Meta { version_id: version.to_string(), last_updated: self.at(days_ago, 6), security: vec![test_label()] }
    }
}

fn test_label() -> Coding {
    coding(ACT_REASON, "HTEST", Some("test health data"))
}

/// One patient being written.
struct Person {
    id: String,
    shows: &'static str,
    sex: Sex,
    age: i64,
    hospital: Hospital,
    /// The laboratory of this patient sends no reference ranges.
    without_ranges: bool,
    merged_into: Option<String>,
    patient: Patient,
    /// With their round, and whether they are valid FHIR.
    observations: Vec<(Observation, u8, bool)>,
    others: Vec<Resource>,
    correction: Option<Resource>,
}

impl Person {
    fn born_in_year(&mut self, before: i64) {
        let this_year = Day::from_number(self.hospital.today).year;
        self.patient.birth_date = Some((i64::from(this_year) - before).to_string());
    }

    /// The creatinine in mg/dL, two decimals, that gives this eGFR by CKD-EPI 2021 at this age.
    fn creatinine_for(&self, target: f64, days_ago: i64) -> String {
        format!("{:.2}", creatinine_for(target, self.sex, self.age, days_ago))
    }

    /// Creatinine at so many days before the start, chosen for these eGFR; mg/dL, LOINC.
    fn course(&mut self, course: &[(i64, f64)]) {
        self.course_of_age(self.sex, self.age, course);
    }

    /// The same for a record whose own sex is not known.
    fn course_of(&mut self, sex: Sex, course: &[(i64, f64)]) {
        self.course_of_age(sex, self.age, course);
    }

    fn course_of_age(&mut self, sex: Sex, age: i64, course: &[(i64, f64)]) {
        for (days_ago, target) in course {
            let value = format!("{:.2}", creatinine_for(*target, sex, age, *days_ago));
            self.observation(*days_ago, "2160-0", "Creatinine [Mass/volume] in Serum or Plasma", quantity(&value, "mg/dL"));
        }
    }

    /// Creatinine in whole umol/L under its own LOINC.
    fn course_in_moles(&mut self, course: &[(i64, f64)]) {
        for (days_ago, target) in course {
            // 88.42 umol/L in 1 mg/dL, the molar mass 113.12 g/mol of creatinine (reference: admiral, nephro).
            let value = format!("{:.0}", creatinine_for(*target, self.sex, self.age, *days_ago) * 88.42);
            self.observation(*days_ago, "14682-9", "Creatinine [Moles/volume] in Serum or Plasma", quantity(&value, "umol/L"));
        }
    }

    fn observation(&mut self, days_ago: i64, loinc: &str, display: &'static str, value: Quantity) {
        self.push_observation(days_ago, |observation| {
            observation.code = concept(LOINC, loinc, display);
            observation.value_quantity = Some(value);
        });
    }

    fn push_observation(&mut self, days_ago: i64, fill: impl FnOnce(&mut Observation)) {
        let hospital = self.hospital.clone();
        let mut observation = Observation {
            resource_type: "Observation",
            id: format!("{}-r{:02}", self.id, self.observations.len() + 1),
            meta: hospital.meta(days_ago, 1),
            status: "final",
            category: vec![concept("http://terminology.hl7.org/CodeSystem/observation-category", "laboratory", "Laboratory")],
            subject: Reference { reference: format!("Patient/{}", self.id) },
            effective_date_time: hospital.at(days_ago, 4),
            issued: hospital.at(days_ago, 6),
            ..Observation::default()
        };
        fill(&mut observation);
        self.observations.push((observation, 0, true));
    }

    /// The laboratory of a screening visit, all within the limits.
    fn laboratory(&mut self, days_ago: i64) {
        self.laboratory_but(days_ago, &[]);
    }

    /// The same with other values for some LOINC; an empty value leaves one out.
    fn laboratory_but(&mut self, days_ago: i64, other: &[(&str, &str)]) {
        for (loinc, display, value, unit, low, high) in PANEL {
            let value = other.iter().find(|(code, _)| code == &loinc).map_or(value, |(_, value)| value);
            if value.is_empty() {
                continue;
            }
            let range = (!self.without_ranges).then(|| ReferenceRange { low: Some(quantity(low, unit)), high: Some(quantity(high, unit)) });
            self.push_observation(days_ago, |observation| {
                observation.code = concept(LOINC, loinc, display);
                observation.value_quantity = Some(quantity(value, unit));
                observation.reference_range = range.into_iter().collect();
            });
        }
    }

    /// A second version of the last result, sent in the second round.
    fn correct_last(&mut self, status: &'static str, change: impl FnOnce(&mut Observation)) {
        let (mut observation, _, is_valid) = self.observations.last().expect("there is a result to correct").clone();
        observation.status = status;
        observation.meta = self.hospital.meta(1, 2);
        observation.issued = self.hospital.at(1, 5);
        change(&mut observation);
        self.observations.push((observation, 1, is_valid));
    }

    /// Prepares, without sending it, a second version of the newest creatinine, as a laboratory would send it that had
    /// mixed up two samples; mg/dL.
    fn offer_correction(&mut self, value: &str) {
        let code = creatinine().coding[0].code.clone();
        let creatinines =
            self.observations.iter().map(|(observation, _, _)| observation).filter(|observation| observation.code.coding[0].code == code);
        let mut newest = creatinines.max_by(|a, b| a.effective_date_time.cmp(&b.effective_date_time)).expect("there is a result to correct").clone();
        newest.status = "corrected";
        newest.meta = self.hospital.meta(0, 2);
        newest.meta.last_updated = self.hospital.at(0, 0);
        newest.issued = self.hospital.at(0, 0);
        newest.value_quantity = Some(quantity(value, "mg/dL"));
        self.correction = Some(Resource { resource_type: "Observation", id: newest.id.clone(), round: 2, is_valid: true, json: to_json(&newest) });
    }

    /// Sends every result again, byte for byte.
    fn repeat(&mut self) {
        let again: Vec<_> = self.observations.iter().map(|(observation, _, is_valid)| (observation.clone(), 1, *is_valid)).collect();
        self.observations.extend(again);
    }

    /// Sends the result of the last draw again under a new id, with the same accession number: one result by two doors.
    fn repeat_last_creatinine_under_a_new_id(&mut self) {
        let system = self.hospital.accessions();
        let code = creatinine().coding[0].code.clone();
        let is_creatinine = |observation: &Observation| observation.code.coding[0].code == code;
        let last = self.observations.iter().map(|(observation, _, _)| &observation.effective_date_time).max().cloned().expect("there are results");
        let mut again = None;
        for (observation, _, _) in &mut self.observations {
            if is_creatinine(observation) && observation.effective_date_time == last {
                observation.identifier = vec![Identifier { system: system.clone(), value: format!("{}-0007", self.id) }];
                again = Some(observation.clone());
            }
        }
        let mut again = again.expect("there is a creatinine of the last draw");
        again.id.push_str("-second-door");
        self.observations.push((again, 1, true));
    }

    /// The last result is not valid FHIR: it goes to this gateway only.
    fn spoil_last(&mut self) {
        self.observations.last_mut().expect("there is a result to spoil").2 = false;
    }

    fn condition(&mut self, name: &str, days_ago: i64, system: &str, code: &str, display: &'static str) {
        let hospital = self.hospital.clone();
        let condition = Condition {
            resource_type: "Condition",
            id: format!("{}-{name}", self.id),
            meta: hospital.meta(days_ago, 1),
            clinical_status: concept("http://terminology.hl7.org/CodeSystem/condition-clinical", "active", "Active"),
            verification_status: concept("http://terminology.hl7.org/CodeSystem/condition-ver-status", "confirmed", "Confirmed"),
            category: vec![concept("http://terminology.hl7.org/CodeSystem/condition-category", "problem-list-item", "Problem List Item")],
            code: concept(system, code, display),
            subject: Reference { reference: format!("Patient/{}", self.id) },
            onset_date_time: hospital.at(days_ago, 4),
            recorded_date: hospital.at(days_ago, 6),
        };
        self.others.push(Resource { resource_type: "Condition", id: condition.id.clone(), round: 0, is_valid: true, json: to_json(&condition) });
    }

    /// `dates`: when it began, and when it was written down.
    fn adverse_event(&mut self, name: &'static str, [date, recorded_date]: [String; 2], axes: Axes) {
        let coded = |system: &str, code: &str| Concept { coding: vec![coding(system, code, None)], text: None };
        let causality = |code: &str| Causality { assessment: coded("http://terminology.hl7.org/CodeSystem/adverse-event-causality-assess", code) };
        let seriousness =
            |(code, display): (&str, &'static str)| concept("http://terminology.hl7.org/CodeSystem/adverse-event-seriousness", code, display);
        let event = AdverseEvent {
            resource_type: "AdverseEvent",
            id: format!("{}-event", self.id),
            meta: Meta { last_updated: recorded_date.clone(), ..self.hospital.meta(0, 1) },
            contained: vec![Substance {
                resource_type: "Substance",
                id: "product",
                code: Concept { coding: Vec::new(), text: Some("Cell product of the study") },
            }],
            actuality: "actual",
            event: Concept { coding: Vec::new(), text: Some(name) },
            subject: self.reference(),
            date,
            recorded_date,
            seriousness: axes.seriousness.map(seriousness),
            severity: Some(coded("http://terminology.hl7.org/CodeSystem/adverse-event-severity", axes.severity)),
            outcome: axes.outcome.map(|code| coded("http://terminology.hl7.org/CodeSystem/adverse-event-outcome", code)),
            suspect_entity: vec![Suspect {
                instance: Reference { reference: "#product".into() },
                causality: axes.causality.map(causality).into_iter().collect(),
            }],
        };
        self.others.push(Resource { resource_type: "AdverseEvent", id: event.id.clone(), round: 0, is_valid: true, json: to_json(&event) });
    }

    fn reference(&self) -> Reference {
        Reference { reference: format!("Patient/{}", self.id) }
    }

    /// Entered the trial the day before, and was given the product of its arm; mL.
    fn infusion(&mut self, days_ago: i64, arm: &'static str, millilitres: &str) {
        let hospital = self.hospital.clone();
        let part = ResearchSubject {
            resource_type: "ResearchSubject",
            id: format!("{}-part", self.id),
            meta: hospital.meta(days_ago, 1),
            status: "on-study",
            period: Period { start: hospital.at(days_ago + 1, 6), end: None },
            study: Registered { resource_type: "ResearchStudy", identifier: Identifier { system: hospital.studies(), value: STUDY_NUMBER.into() } },
            individual: self.reference(),
            assigned_arm: arm,
            actual_arm: arm,
        };
        let given = MedicationAdministration {
            resource_type: "MedicationAdministration",
            id: format!("{}-infusion", self.id),
            meta: hospital.meta(days_ago, 1),
            status: "completed",
            medication_codeable_concept: Concept {
                coding: vec![coding(&hospital.pharmacy(), PRODUCT, None)],
                text: Some("Cell product of the study"),
            },
            subject: self.reference(),
            effective_period: Period { start: hospital.at(days_ago, 9), end: Some(hospital.at(days_ago, 10)) },
            dosage: Dosage { dose: Some(quantity(millilitres, "mL")) },
        };
        self.others.push(Resource { resource_type: "ResearchSubject", id: part.id.clone(), round: 0, is_valid: true, json: to_json(&part) });
        self.others.push(Resource {
            resource_type: "MedicationAdministration",
            id: given.id.clone(),
            round: 0,
            is_valid: true,
            json: to_json(&given),
        });
    }

    /// A stay at the hospital that began so many hours ago and goes on; nobody says that it was planned.
    fn stay(&mut self, hours_ago: i64) {
        let hospital = self.hospital.clone();
        let stay = Encounter {
            resource_type: "Encounter",
            id: format!("{}-stay", self.id),
            meta: Meta { last_updated: hospital.hours_ago(hours_ago), ..hospital.meta(0, 1) },
            status: "in-progress",
            class: coding("http://terminology.hl7.org/CodeSystem/v3-ActCode", "IMP", Some("inpatient encounter")),
            subject: self.reference(),
            period: Period { start: hospital.hours_ago(hours_ago), end: None },
        };
        self.others.push(Resource { resource_type: "Encounter", id: stay.id.clone(), round: 0, is_valid: true, json: to_json(&stay) });
    }

    /// The Patient first, then what refers to it; later versions behind.
    fn finish(self) -> Story {
        let mut resources = vec![Resource { resource_type: "Patient", id: self.id.clone(), round: 0, is_valid: true, json: to_json(&self.patient) }];
        resources.extend(self.others);
        for (observation, round, is_valid) in &self.observations {
            resources.push(Resource {
                resource_type: "Observation",
                id: observation.id.clone(),
                round: *round,
                is_valid: *is_valid,
                json: to_json(observation),
            });
        }
        if let Some(into) = &self.merged_into {
            let hospital = self.hospital.clone();
            let merged = Patient {
                meta: hospital.meta(1, 2),
                active: false,
                link: vec![Link { other: Reference { reference: format!("Patient/{into}") }, link_type: "replaced-by" }],
                ..self.patient
            };
            resources.push(Resource { resource_type: "Patient", id: self.id.clone(), round: 1, is_valid: true, json: to_json(&merged) });
        }
        Story { subject: self.id, shows: self.shows, resources, correction: self.correction }
    }
}

/// The trial's number at the trial office, and its product's at the pharmacy, as the hospital's mapping.json names them.
const STUDY_NUMBER: &str = "CT-2024-07";
const PRODUCT: &str = "CELL-07";

/// What the hospital's record says of an event: R4 codes; what is `None` it does not say.
#[derive(Default)]
struct Axes {
    seriousness: Option<(&'static str, &'static str)>,
    severity: &'static str,
    causality: Option<&'static str>,
    outcome: Option<&'static str>,
}

/// A screening panel within the limits: LOINC, display, value, UCUM unit, reference range. Ranges as a hospital prints
/// them; the upper ones count for the study's multiples.
const PANEL: [(&str, &str, &str, &str, &str, &str); 8] = [
    ("751-8", "Neutrophils [#/volume] in Blood by Automated count", "4.1", "10*3/uL", "1.8", "7.7"),
    ("777-3", "Platelets [#/volume] in Blood by Automated count", "218", "10*3/uL", "150", "400"),
    ("718-7", "Hemoglobin [Mass/volume] in Blood", "11.3", "g/dL", "12.0", "16.0"),
    ("1975-2", "Bilirubin.total [Mass/volume] in Serum or Plasma", "0.6", "mg/dL", "0.2", "1.2"),
    ("1920-8", "Aspartate aminotransferase in Serum or Plasma", "22", "U/L", "5", "34"),
    ("1742-6", "Alanine aminotransferase in Serum or Plasma", "19", "U/L", "5", "40"),
    ("6768-6", "Alkaline phosphatase in Serum or Plasma", "81", "U/L", "40", "130"),
    ("4548-4", "Hemoglobin A1c/Hemoglobin.total in Blood", "6.4", "%", "4.0", "5.7"),
];

/// Finds by halving the creatinine in mg/dL at which CKD-EPI 2021 gives this eGFR; it falls as creatinine rises.
fn creatinine_for(target: f64, sex: Sex, age: i64, days_ago: i64) -> f64 {
    // Ages are a third of a year past a birthday today, so the age at an earlier draw can be told in whole years.
    let age_then = (age * 1_461 / 4 + 120 - days_ago) * 4 / 1_461;
    let (mut low, mut high) = (0.1, 30.0);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        let inputs = Inputs { creatinine_mg_dl: Some(middle), age_years: Some(age_then as f64), sex: Some(sex), ..Inputs::default() };
        let found = egfr::estimate(Equation::CkdEpi2021Creatinine, &inputs).expect("the demo asks for adults of known sex");
        if found > target { low = middle } else { high = middle }
    }
    (low + high) / 2.0
}
