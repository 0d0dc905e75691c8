//! Patterns and events of the published documentation (Amazon EventBridge's user guide, Event Ruler's README), and
//! of `docs/filters.md`, with the answers given there.

use super::filter;

/// Pattern, event, whether it matches.
const PUBLISHED: &[(&str, &str, bool)] = &[
    // A pattern names the fields it is about; the others do not matter.
    (
        r#"{"source": ["aws.ec2"], "detail-type": ["EC2 Instance State-change Notification"], "detail": {"state": ["terminated"]}}"#,
        r#"{"version": "0", "source": "aws.ec2", "detail-type": "EC2 Instance State-change Notification", "detail": {"instance-id": "i-1", "state": "terminated"}}"#,
        true,
    ),
    (
        r#"{"source": ["aws.ec2"], "detail": {"state": ["terminated"]}}"#,
        r#"{"source": "aws.ec2", "state": "terminated"}"#,
        false,
    ),
    (r#"{"source": ["aws.ec2", "aws.fargate"]}"#, r#"{"source": "aws.fargate"}"#, true),
    (r#"{"Location": ["New York"], "Day": ["Monday"]}"#, r#"{"Location": "New York", "Day": "Monday"}"#, true),
    (r#"{"Location": ["New York"], "Day": ["Monday"]}"#, r#"{"Location": "New York", "Day": "Friday"}"#, false),
    (r#"{"Name": ["Alice"]}"#, r#"{"Name": "Alice"}"#, true),
    (r#"{"Name": ["Alice"]}"#, r#"{"Name": "alice"}"#, false),
    // Null and the empty string.
    (r#"{"detail": {"eventVersion": [""]}}"#, r#"{"detail": {"eventVersion": "", "responseElements": null}}"#, true),
    (
        r#"{"detail": {"responseElements": [null]}}"#,
        r#"{"detail": {"eventVersion": "", "responseElements": null}}"#,
        true,
    ),
    (
        r#"{"detail": {"responseElements": [""]}}"#,
        r#"{"detail": {"eventVersion": "", "responseElements": null}}"#,
        false,
    ),
    (r#"{"detail": {"eventVersion": [null]}}"#, r#"{"detail": {"eventVersion": "", "responseElements": null}}"#, false),
    // Numbers are compared by their values.
    (
        r#"{"detail": {"severity": {"score": [1]}, "count": [2]}}"#,
        r#"{"detail": {"severity": {"score": 1}, "count": 2}}"#,
        true,
    ),
    (r#"{"x": [300]}"#, r#"{"x": 300}"#, true),
    (r#"{"x": [300]}"#, r#"{"x": 300.0}"#, true),
    (r#"{"x": [300]}"#, r#"{"x": 3.0e2}"#, true),
    (r#"{"x": [0]}"#, r#"{"x": -0.0}"#, true),
    (r#"{"x": [9007199254740993]}"#, r#"{"x": 9007199254740992}"#, false),
    (r#"{"x": [{"anything-but": [9007199254740993]}]}"#, r#"{"x": 9007199254740992}"#, true),
    (r#"{"x": [{"anything-but": [300]}]}"#, r#"{"x": 3e2}"#, false),
    (r#"{"n": [{"numeric": [">", 100]}]}"#, r#"{"n": 6000000000}"#, true),
    (r#"{"n": [{"numeric": [">", 100]}]}"#, r#"{"n": 1764150000000}"#, true),
    (r#"{"n": [{"numeric": [">=", 5000000000]}]}"#, r#"{"n": 1e10}"#, true),
    (r#"{"n": [{"numeric": [">", 0]}]}"#, r#"{"n": 0.0000001}"#, true),
    (r#"{"n": [{"numeric": ["<", 0]}]}"#, r#"{"n": -6000000000}"#, true),
    (r#"{"n": [{"numeric": [">", 1764140000000]}]}"#, r#"{"n": 1764150000000}"#, true),
    (r#"{"n": [{"numeric": ["<", 100]}]}"#, r#"{"n": 6000000000}"#, false),
    (r#"{"n": [{"numeric": [">", 9007199254740992]}]}"#, r#"{"n": 9007199254740993}"#, true),
    (r#"{"n": [{"numeric": ["<=", 9007199254740992]}]}"#, r#"{"n": 9007199254740993}"#, false),
    (r#"{"ip": [{"cidr": "10.0.0.0/8"}]}"#, r#"{"ip": "::ffff:10.1.2.3"}"#, true),
    (r#"{"ip": [{"cidr": "10.0.0.0/8"}]}"#, r#"{"ip": "::ffff:11.1.2.3"}"#, false),
    (r#"{"ip": [{"cidr": "::ffff:0:0/96"}]}"#, r#"{"ip": "::ffff:10.1.2.3"}"#, true),
    (r#"{"x": [300]}"#, r#"{"x": "300"}"#, false),
    (r#"{"x": [{"numeric": ["=", 300]}]}"#, r#"{"x": 300.0}"#, true),
    (r#"{"x": [{"numeric": ["=", 300]}]}"#, r#"{"x": 3.0e2}"#, true),
    (r#"{"x": [{"numeric": ["=", 300]}]}"#, r#"{"x": "300"}"#, false),
    (r#"{"Price": [{"numeric": ["=", 100]}]}"#, r#"{"Price": 100}"#, true),
    (r#"{"Price": [{"numeric": [">", 10, "<=", 20]}]}"#, r#"{"Price": 20}"#, true),
    (r#"{"Price": [{"numeric": [">", 10, "<=", 20]}]}"#, r#"{"Price": 10}"#, false),
    (
        r#"{"detail": {"c-count": [{"numeric": [">", 0, "<=", 5]}], "d-count": [{"numeric": ["<", 10]}], "x-limit": [{"numeric": ["=", 3.018e2]}]}}"#,
        r#"{"detail": {"c-count": 5, "d-count": 3, "x-limit": 301.8}}"#,
        true,
    ),
    // The ends of strings.
    (r#"{"time": [{"prefix": "2017-10-02"}]}"#, r#"{"time": "2017-10-02T18:43:48Z"}"#, true),
    (r#"{"time": [{"prefix": "2017-10-02"}]}"#, r#"{"time": "2017-10-03T18:43:48Z"}"#, false),
    (r#"{"Region": [{"prefix": "us-"}]}"#, r#"{"Region": "us-east-1"}"#, true),
    (
        r#"{"detail": {"service": [{"prefix": {"equals-ignore-case": "EventB"}}]}}"#,
        r#"{"detail": {"service": "EVENTBridge"}}"#,
        true,
    ),
    (
        r#"{"detail": {"service": [{"prefix": {"equals-ignore-case": "EventB"}}]}}"#,
        r#"{"detail": {"service": "event"}}"#,
        false,
    ),
    (r#"{"FileName": [{"suffix": ".png"}]}"#, r#"{"FileName": "a.png"}"#, true),
    (r#"{"FileName": [{"suffix": ".png"}]}"#, r#"{"FileName": "a.PNG"}"#, false),
    (
        r#"{"detail": {"FileName": [{"suffix": {"equals-ignore-case": ".png"}}]}}"#,
        r#"{"detail": {"FileName": "a.PnG"}}"#,
        true,
    ),
    (r#"{"service": [{"suffix": {"equals-ignore-case": "tBridge"}}]}"#, r#"{"service": "EVENTBRIDGE"}"#, true),
    (r#"{"source": [{"suffix": "ec2"}]}"#, r#"{"source": "aws.ec2"}"#, true),
    (r#"{"Name": [{"equals-ignore-case": "alice"}]}"#, r#"{"Name": "ALICE"}"#, true),
    (
        r#"{"detail-type": [{"equals-ignore-case": "ec2 instance state-change notification"}]}"#,
        r#"{"detail-type": "EC2 Instance State-change Notification"}"#,
        true,
    ),
    // Wildcards.
    (r#"{"FileName": [{"wildcard": "dir/*.png"}]}"#, r#"{"FileName": "dir/a/b.png"}"#, true),
    (r#"{"FileName": [{"wildcard": "dir/*.png"}]}"#, r#"{"FileName": "dir/.png"}"#, true),
    (r#"{"FileName": [{"wildcard": "dir/*.png"}]}"#, r#"{"FileName": "other/a.png"}"#, false),
    (
        r#"{"EventBusArn": [{"wildcard": "arn:aws:events:us-east-1:*:event-bus/*"}]}"#,
        r#"{"EventBusArn": "arn:aws:events:us-east-1:123456789012:event-bus/myEventBus"}"#,
        true,
    ),
    (
        r#"{"EventBusArn": [{"wildcard": "arn:aws:events:us-east-1:*:event-bus/*"}]}"#,
        r#"{"EventBusArn": "arn:aws:events:us-west-2:123456789012:event-bus/x"}"#,
        false,
    ),
    (r#"{"p": [{"wildcard": "c:\\\\\\**\\\\x"}]}"#, r#"{"p": "c:\\*anything\\x"}"#, true),
    (r#"{"p": [{"wildcard": "c:\\\\\\**\\\\x"}]}"#, r#"{"p": "c:\\anything\\x"}"#, false),
    (r#"{"p": [{"wildcard": "Simple*Service"}]}"#, r#"{"p": "SimpleQueueService"}"#, true),
    (r#"{"p": [{"wildcard": "a*a"}]}"#, r#"{"p": "a"}"#, false),
    // Anything but.
    (r#"{"detail": {"state": [{"anything-but": "initializing"}]}}"#, r#"{"detail": {"state": "running"}}"#, true),
    (r#"{"detail": {"state": [{"anything-but": "initializing"}]}}"#, r#"{"detail": {"state": "initializing"}}"#, false),
    (r#"{"detail": {"state": [{"anything-but": "initializing"}]}}"#, r#"{"detail": {}}"#, false),
    (r#"{"detail": {"x-limit": [{"anything-but": 123}]}}"#, r#"{"detail": {"x-limit": 301.8}}"#, true),
    (r#"{"detail": {"x-limit": [{"anything-but": 123}]}}"#, r#"{"detail": {"x-limit": 123}}"#, false),
    (
        r#"{"detail": {"state": [{"anything-but": ["stopped", "overloaded"]}]}}"#,
        r#"{"detail": {"state": "overloaded"}}"#,
        false,
    ),
    (r#"{"detail": {"x-limit": [{"anything-but": [100, 200, 300]}]}}"#, r#"{"detail": {"x-limit": 301.8}}"#, true),
    (r#"{"detail": {"x-limit": [{"anything-but": [100, 200, 300]}]}}"#, r#"{"detail": {"x-limit": 200}}"#, false),
    (
        r#"{"detail": {"state": [{"anything-but": {"prefix": "init"}}]}}"#,
        r#"{"detail": {"state": "initializing"}}"#,
        false,
    ),
    (
        r#"{"detail": {"state": [{"anything-but": {"prefix": ["init", "stop"]}}]}}"#,
        r#"{"detail": {"state": "running"}}"#,
        true,
    ),
    (r#"{"FileName": [{"anything-but": {"suffix": ".txt"}}]}"#, r#"{"FileName": "a.png"}"#, true),
    (r#"{"FileName": [{"anything-but": {"suffix": [".txt", ".rtf"]}}]}"#, r#"{"FileName": "a.rtf"}"#, false),
    (
        r#"{"detail": {"state": [{"anything-but": {"equals-ignore-case": "initializing"}}]}}"#,
        r#"{"detail": {"state": "INITIALIZING"}}"#,
        false,
    ),
    (
        r#"{"detail": {"state": [{"anything-but": {"equals-ignore-case": ["initializing", "stopped"]}}]}}"#,
        r#"{"detail": {"state": "Running"}}"#,
        true,
    ),
    (r#"{"FilePath": [{"anything-but": {"wildcard": "*/lib/*"}}]}"#, r#"{"FilePath": "dir/lib/dir"}"#, false),
    (
        r#"{"FilePath": [{"anything-but": {"wildcard": ["*/lib/*", "*/bin/*"]}}]}"#,
        r#"{"FilePath": "dir/bin/dir"}"#,
        false,
    ),
    (r#"{"FilePath": [{"anything-but": {"wildcard": "*/lib/*"}}]}"#, r#"{"FilePath": "dir/src/dir"}"#, true),
    // Exists asks for leaves.
    (r#"{"detail": {"state": [{"exists": true}]}}"#, r#"{"detail": {"state": "terminated"}}"#, true),
    (r#"{"detail": {"state": [{"exists": true}]}}"#, r#"{"detail": {"state": null}}"#, true),
    (r#"{"detail": {"state": [{"exists": true}]}}"#, r#"{"detail": {}}"#, false),
    (
        r#"{"person": {"address": [{"exists": true}]}}"#,
        r#"{"person": {"name": "J", "address": {"street": "123 Main St"}}}"#,
        false,
    ),
    (
        r#"{"detail": {"c-count": [{"exists": false}]}}"#,
        r#"{"detail": {"state": "running", "c-count": {"c1": 100}}}"#,
        true,
    ),
    (r#"{"detail": {"c-count": [{"exists": false}]}}"#, r#"{"detail": {"c-count": 100}}"#, false),
    (r#"{"detail": {"c-count": [{"exists": false}]}}"#, "{}", true),
    // Addresses.
    (
        r#"{"detail": {"sourceIPAddress": [{"cidr": "10.0.0.0/24"}]}}"#,
        r#"{"detail": {"sourceIPAddress": "10.0.0.255"}}"#,
        true,
    ),
    (
        r#"{"detail": {"sourceIPAddress": [{"cidr": "10.0.0.0/24"}]}}"#,
        r#"{"detail": {"sourceIPAddress": "10.0.1.0"}}"#,
        false,
    ),
    (
        r#"{"detail": {"sourceIPAddress": [{"cidr": "2001:db8::/32"}]}}"#,
        r#"{"detail": {"sourceIPAddress": "2001:DB8:0:1::1"}}"#,
        true,
    ),
    (
        r#"{"detail": {"sourceIPAddress": [{"cidr": "2001:db8::/32"}]}}"#,
        r#"{"detail": {"sourceIPAddress": "10.0.0.1"}}"#,
        false,
    ),
    // Several operators, and several values.
    (
        r#"{"time": [{"prefix": "2017-10-02"}], "detail": {"state": [{"anything-but": "initializing"}], "c-count": [{"numeric": [">", 0, "<=", 5]}], "d-count": [{"numeric": ["<", 10]}], "x-limit": [{"anything-but": [100, 200, 300]}]}}"#,
        r#"{"time": "2017-10-02T16:24:49Z", "detail": {"state": "running", "c-count": 5, "d-count": 3, "x-limit": 301.8}}"#,
        true,
    ),
    (r#"{"PaymentType": ["Credit", "Debit"]}"#, r#"{"PaymentType": "Debit"}"#, true),
    // $or.
    (
        r#"{"$or": [{"Location": ["New York"]}, {"Day": ["Monday"]}]}"#,
        r#"{"Location": "Boston", "Day": "Monday"}"#,
        true,
    ),
    (
        r#"{"$or": [{"Location": ["New York"]}, {"Day": ["Monday"]}]}"#,
        r#"{"Location": "Boston", "Day": "Friday"}"#,
        false,
    ),
    (
        r#"{"detail": {"$or": [{"c-count": [{"numeric": [">", 0, "<=", 5]}]}, {"d-count": [{"numeric": ["<", 10]}]}, {"x-limit": [{"numeric": ["=", 3.018e2]}]}]}}"#,
        r#"{"detail": {"c-count": 9, "d-count": 30, "x-limit": 301.8}}"#,
        true,
    ),
    (
        r#"{"source": ["aws.cloudwatch"], "$or": [{"metricName": ["CPUUtilization", "ReadLatency"]}, {"metricType": ["MetricType"], "namespace": ["AWS/EC2"], "$or": [{"metricId": [1234]}, {"spaceId": [1000]}]}, {"scope": ["Service"]}]}"#,
        r#"{"source": "aws.cloudwatch", "metricType": "MetricType", "namespace": "AWS/EC2", "spaceId": 1000}"#,
        true,
    ),
    (
        r#"{"source": ["aws.cloudwatch"], "$or": [{"metricName": ["CPUUtilization", "ReadLatency"]}, {"metricType": ["MetricType"], "namespace": ["AWS/EC2"], "$or": [{"metricId": [1234]}, {"spaceId": [1000]}]}, {"scope": ["Service"]}]}"#,
        r#"{"source": "aws.cloudwatch", "metricType": "MetricType", "namespace": "AWS/EC2", "spaceId": 1}"#,
        false,
    ),
    // Arrays of the event: any element will do.
    (r#"{"resources": ["arn:1", "arn:2"]}"#, r#"{"resources": ["arn:0", "arn:2"]}"#, true),
    (r#"{"resources": ["arn:1", "arn:2"]}"#, r#"{"resources": ["arn:0"]}"#, false),
    (r#"{"resources": ["arn:1"]}"#, r#"{"resources": []}"#, false),
    (r#"{"resources": [{"exists": true}]}"#, r#"{"resources": []}"#, false),
    (r#"{"d": {"tags": [{"anything-but": "banned"}]}}"#, r#"{"d": {"tags": ["banned", "ok"]}}"#, true),
    (r#"{"d": {"tags": [{"anything-but": "banned"}]}}"#, r#"{"d": {"tags": ["banned", "banned"]}}"#, false),
    // Arrays of objects: fields of one element.
    (
        r#"{"employees": {"firstName": ["Anna"]}}"#,
        r#"{"employees": [[{"firstName": "John"}, {"firstName": "Anna"}], [{"firstName": "Peter"}]]}"#,
        true,
    ),
    (
        r#"{"employees": {"firstName": ["Anna"], "lastName": ["Smith"]}}"#,
        r#"{"employees": [{"firstName": "Anna", "lastName": "Smith"}, {"firstName": "Peter", "lastName": "Jones"}]}"#,
        true,
    ),
    (
        r#"{"employees": {"firstName": ["Anna"], "lastName": ["Jones"]}}"#,
        r#"{"employees": [{"firstName": "Anna", "lastName": "Smith"}, {"firstName": "Peter", "lastName": "Jones"}]}"#,
        false,
    ),
    (r#"{"u": {"t": {"k": ["color"], "v": ["blue"]}}}"#, r#"{"u": [{"t": [{"k": "color"}, {"v": "blue"}]}]}"#, false),
    (
        r#"{"d": {"name": [{"exists": true}], "info": {"x": ["1"]}}}"#,
        r#"{"d": [{"name": "alice"}, {"info": {"x": "1"}}]}"#,
        false,
    ),
    (r#"{"d": {"a": [{"exists": true}], "b": [{"exists": false}]}}"#, r#"{"d": [{"a": 1, "b": 2}]}"#, false),
    (r#"{"d": {"a": [{"exists": true}], "b": [{"exists": false}]}}"#, r#"{"d": [{"a": 1}, {"b": 2}]}"#, true),
    // An operator says nothing of values of another type.
    (r#"{"a": [{"prefix": "1"}]}"#, r#"{"a": 1}"#, false),
    (r#"{"a": [{"numeric": [">", 0]}]}"#, r#"{"a": "1"}"#, false),
    (r#"{"a": [{"anything-but": "1"}]}"#, r#"{"a": 1}"#, true),
    (r#"{"a": [{"anything-but": 1}]}"#, r#"{"a": "1"}"#, true),
    (r#"{"a": [{"anything-but": 1}]}"#, r#"{"a": 1.0}"#, false),
    (r#"{"a": [{"anything-but": {"prefix": "t"}}]}"#, r#"{"a": true}"#, true),
    (r#"{"a": ["true"]}"#, r#"{"a": true}"#, false),
    // Where the documentation is silent, as the head of `filter.rs` says.
    (r#"{"a.b": ["x"]}"#, r#"{"a": {"b": "x"}}"#, false),
    (r#"{"a.b": ["x"]}"#, r#"{"a.b": "x"}"#, true),
    (r#"{"a": ["x"], "$or": [{"a": ["y"]}, {"b": ["z"]}]}"#, r#"{"a": "y"}"#, false),
    (r#"{"d": {"x": [1]}, "$or": [{"d": {"y": [2]}}, {"z": [3]}]}"#, r#"{"d": [{"x": 1}, {"y": 2}]}"#, false),
    (r#"{"d": {"a": [{"exists": false}], "b": [{"exists": true}]}}"#, r#"{"d": [{"a": 1}, {"b": 2}]}"#, true),
    (r#"{"d": {"b": [{"exists": false}]}}"#, r#"{"d": [{"a": 1}, {"b": 2}]}"#, false),
    // Escapes are what they stand for.
    (r#"{"k\u00e9": ["\u0041\n"]}"#, r#"{"k\u00e9": "A\n"}"#, true),
    (r#"{"a\"b": [{"prefix": "\\"}]}"#, r#"{"a\"b": "\\x"}"#, true),
];

#[test]
fn the_published_examples_get_the_published_answers() {
    for (pattern, event, wanted) in PUBLISHED {
        assert!(serde_json::from_str::<serde_json::Value>(event).is_ok(), "{event}");
        assert_eq!(filter(pattern).matches(event.as_bytes()), *wanted, "{pattern}\n{event}");
    }
}

/// In `docs/filters.md` a filter stands in a block of its own, and events that it matches and does not match stand in
/// a list below.
#[test]
fn the_examples_of_the_documentation_are_true() {
    let document = include_str!("../../../docs/filters.md");
    let (mut examples, mut operators) = (0, std::collections::BTreeSet::new());
    for part in document.split("```json\n").skip(1) {
        let (pattern, rest) = part.split_once("```\n").unwrap();
        let pattern = filter(pattern);
        operators.extend(pattern.as_str().split('"').map(str::to_owned));
        let lists = rest.lines().take_while(|line| !line.starts_with('#'));
        for line in lists.filter(|line| line.starts_with("- ")) {
            let is_wanted = line.starts_with("- matches `");
            assert!(is_wanted || line.starts_with("- not `"), "{line}");
            let event = line.split('`').nth(1).unwrap();
            assert!(serde_json::from_str::<serde_json::Value>(event).is_ok(), "{event}");
            assert_eq!(pattern.matches(event.as_bytes()), is_wanted, "{pattern}\n{event}");
            examples += 1;
        }
    }
    assert!(examples > 30, "{examples} examples");
    let all =
        ["anything-but", "cidr", "equals-ignore-case", "exists", "numeric", "prefix", "suffix", "wildcard", "$or"];
    for operator in all {
        assert!(operators.contains(operator), "{operator} has no example");
    }
}

#[test]
fn numbers_beyond_doubles_are_compared_too() {
    for (pattern, event, wanted) in [
        (r#"{"n": [{"numeric": ["=", 1e400]}]}"#, r#"{"n": 10e399}"#, true),
        (r#"{"n": [{"numeric": [">", 1e400]}]}"#, r#"{"n": 1e401}"#, true),
        (r#"{"n": [{"numeric": [">", -1e400, "<", 1e400]}]}"#, r#"{"n": 1e399}"#, true),
        (r#"{"n": [{"numeric": ["<", -1e400]}]}"#, r#"{"n": -1e399}"#, false),
    ] {
        assert_eq!(filter(pattern).matches(event.as_bytes()), wanted, "{pattern} {event}");
    }
}
