//! `docs/openapi.json` against the route table.

use hyper::Method;
use omlxd::http::Route;
use serde_json::Value;

const METHODS: [&str; 5] = ["get", "post", "put", "delete", "patch"];

#[test]
fn the_document_has_every_route_and_no_other() {
    let document: Value = serde_json::from_str(include_str!("../../../docs/openapi.json")).unwrap();
    let paths = document["paths"].as_object().unwrap();
    for route in Route::ALL.into_iter().filter(|route| *route != Route::Unknown) {
        let of_path = paths.get(route.template());
        let of_path = of_path.unwrap_or_else(|| panic!("{} is not in it", route.template()));
        for method in METHODS {
            let allowed = route.allows(&method.to_uppercase().parse::<Method>().unwrap());
            let what = format!("{method} {}", route.template());
            assert_eq!(of_path.get(method).is_some(), allowed, "{what}");
            // A client that went away gets no answer; embeddings have none to give.
            let undescribed =
                |status: &str| status == "499" || (status == "200" && route == Route::Embeddings);
            for status in route.statuses().iter().filter(|status| allowed && !undescribed(status)) {
                assert!(!of_path[method]["responses"][*status].is_null(), "{what} {status}");
            }
        }
    }
    for path in paths.keys() {
        assert_ne!(Route::of(path).0, Route::Unknown, "{path} is not served");
    }
}
