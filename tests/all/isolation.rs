//! Users are apart.

use carrel_tests::Test;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn users_have_own_notes() {
    let server = Test::new().start().await;
    let add = json!({"command": "note", "action": "add", "param1": "alice's"});
    server.user("alice").call(add).await.ok();
    let bob = server.user("bob").call(json!({"command": "note", "action": "list"})).await.ok();
    assert_eq!(bob["data"], json!({"notes": [], "count": 0, "commands_executed": 1}));
}
