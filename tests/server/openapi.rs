//! The OpenAPI document: reviewed whole whenever it changes.

#[test]
fn the_document_is_the_one_that_was_reviewed() {
    insta::assert_snapshot!(postrider::api::openapi().to_pretty_json().unwrap());
}

#[test]
fn every_reference_leads_to_a_schema() {
    let document: serde_json::Value = serde_json::to_value(postrider::api::openapi()).unwrap();
    let mut references = Vec::new();
    collect_references(&document, &mut references);
    assert!(references.len() > 20, "{references:?}");
    for reference in references {
        assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference} leads nowhere");
    }
}

fn collect_references(value: &serde_json::Value, into: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(map) => {
            into.extend(map.get("$ref").and_then(|reference| reference.as_str()).map(str::to_owned));
            map.values().for_each(|value| collect_references(value, into));
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| collect_references(item, into)),
        _ => {}
    }
}

#[test]
fn every_route_with_a_token_tells_how_it_refuses() {
    let document: serde_json::Value = serde_json::to_value(postrider::api::openapi()).unwrap();
    let mut operations = std::collections::BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            assert!(operations.insert(operation["operationId"].to_string()), "{method} {path}: its id is taken");
            let responses = operation["responses"].as_object().unwrap();
            // An inlet has its sender's signature for a token.
            let needs_token = operation.get("security").is_none() || path.starts_with("/in/");
            assert_eq!(responses.contains_key("401"), needs_token, "{method} {path}");
            assert!(operation["summary"].is_string(), "{method} {path} has no summary");
            for (status, response) in responses {
                assert_ne!(response["description"], "", "{method} {path} {status}");
                let is_problem = response["content"].get("application/problem+json").is_some();
                assert_eq!(is_problem, status.as_str() >= "400", "{method} {path} {status}");
            }
        }
    }
    assert!(operations.len() >= 20, "{operations:?}");
}
