//! Instances of message-svc, as far as an edge can tell: who owns what, and the rules of generations.

use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use confab_ids::{ChatId, SHARDS, Shard};
use confab_mesh::{Identity, Peer, ServerConfig, local, server};
use confab_proto::message::v1::command::Action;
use confab_proto::message::v1::message_service_server::{MessageService, MessageServiceServer};
use confab_proto::message::v1::{self as pb, Command, ConverseRequest, ConverseResponse, Reply, WatchShardsResponse};
use confab_proto::metadata::RELAY_TO;
use futures_util::{Stream, StreamExt as _};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, WatchStream};
use tonic::{Request, Response, Status, Streaming};

type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What the instances have been told, and have done.
#[derive(Clone, Default)]
pub(super) struct Told {
    /// By whom, in which chat, which call.
    pub log: Vec<(&'static str, u64, u64)>,
    /// By whom, in which chat, up to where.
    marks: Vec<(&'static str, u64, u64)>,
    refused: HashSet<(&'static str, u64)>,
    /// Commands that came while their instance was frozen.
    pub swallowed: usize,
    /// By whom streams were passed on, and to whom.
    pub relayed: Vec<(&'static str, &'static str)>,
}

impl Told {
    pub(super) fn refused_by(&self, name: &'static str, chat: u64) -> bool {
        self.refused.contains(&(name, chat))
    }

    pub(super) fn marks(&self, name: &'static str) -> Vec<(u64, u64)> {
        let of = self.marks.iter().filter(|(by, ..)| *by == name);
        of.map(|(_, chat, seq)| (*chat, *seq)).collect()
    }
}

/// What one instance does.
#[derive(Clone, Copy, Default)]
struct Mood {
    frozen: bool,
    /// It doesn't read.
    stalled: bool,
    cuts: u32,
}

pub(super) struct Cluster {
    names: Vec<&'static str>,
    told: watch::Sender<Told>,
    /// In truth: which shards, by their parity, are whose.
    truth: Arc<Mutex<[&'static str; 2]>>,
    map: watch::Sender<WatchShardsResponse>,
    moods: HashMap<&'static str, watch::Sender<Mood>>,
}

impl Cluster {
    /// The first one owns all.
    pub(super) fn new(names: &[&'static str]) -> Self {
        let cluster = Self {
            names: names.to_vec(),
            told: watch::Sender::default(),
            truth: Arc::new(Mutex::new([names[0]; 2])),
            map: watch::Sender::default(),
            moods: names.iter().map(|name| (*name, watch::Sender::default())).collect(),
        };
        cluster.tell(names[0]);
        cluster
    }

    fn instances(&self) -> Vec<Instance> {
        let instance = |name: &&'static str| Instance {
            name,
            told: self.told.clone(),
            truth: self.truth.clone(),
            map: self.map.subscribe(),
            mood: self.moods[name].subscribe(),
            others: Vec::new(),
        };
        self.names.iter().map(instance).collect()
    }

    pub(super) fn peers(&self) -> Vec<(&'static str, Peer)> {
        let peer = |instance: Instance| {
            let name = instance.name;
            let instance = Instance { others: self.instances(), ..instance };
            let cfg = ServerConfig::new("message-svc").streaming(&["Converse", "WatchShards"]);
            (name, local(Identity::new("edge"), server(cfg, MessageServiceServer::new(instance))))
        };
        self.instances().into_iter().map(peer).collect()
    }

    pub(super) fn owner_is(&self, name: &'static str) {
        *self.truth.lock().expect("no panic") = [name; 2];
    }

    pub(super) fn tell(&self, name: &str) {
        self.tell_places([name, name]);
    }

    fn tell_places(&self, names: [&str; 2]) {
        let place = |name: &str| {
            let at = self.names.iter().position(|known| *known == name).expect("known");
            u32::try_from(at + 1).expect("a few")
        };
        let shards = (0..SHARDS).map(|shard| place(names[usize::from(shard % 2)])).collect();
        self.map.send_modify(|map| {
            let owners = self.names.iter().map(ToString::to_string).collect();
            *map = WatchShardsResponse { version: map.version + 1, owners, shards };
        });
    }

    /// As where there is one instance only.
    pub(super) fn tell_nothing(&self) {
        self.map.send_replace(WatchShardsResponse::default());
    }

    /// Each has a half; a chat of each.
    pub(super) fn split(&self) -> (u64, u64) {
        let names = [self.names[0], self.names[1]];
        *self.truth.lock().expect("no panic") = names;
        self.tell_places(names);
        let chat = |parity| (1..).find(|chat| Shard::of_chat(ChatId(*chat)).0 % 2 == parity).expect("a chat");
        (chat(0), chat(1))
    }

    pub(super) fn freeze(&self, name: &str, frozen: bool) {
        self.moods[name].send_modify(|mood| mood.frozen = frozen);
    }

    pub(super) fn stall(&self, name: &str) {
        self.moods[name].send_modify(|mood| mood.stalled = true);
    }

    pub(super) fn cut(&self, name: &str) {
        self.moods[name].send_modify(|mood| mood.cuts += 1);
    }

    pub(super) fn told(&self) -> Told {
        self.told.borrow().clone()
    }

    pub(super) async fn wait_for(&self, what: &str, is: impl Fn(&Told) -> bool) {
        let mut told = self.told.subscribe();
        let there = tokio::time::timeout(super::BOUND, told.wait_for(is)).await;
        assert!(there.is_ok_and(|there| there.is_ok()), "waited in vain for {what}");
    }
}

#[derive(Clone)]
struct Instance {
    name: &'static str,
    told: watch::Sender<Told>,
    truth: Arc<Mutex<[&'static str; 2]>>,
    map: watch::Receiver<WatchShardsResponse>,
    mood: watch::Receiver<Mood>,
    /// To whom it passes streams on.
    others: Vec<Self>,
}

impl Instance {
    async fn run(self, mut requests: Streaming<ConverseRequest>, replies: mpsc::Sender<ConverseResponse>) {
        let mut refused = HashMap::new();
        let mut mood = self.mood.clone();
        let mut frozen = false;
        loop {
            let Ok(Some(request)) = requests.message().await else { return };
            // The test is over when there is no sender.
            drop(mood.wait_for(|mood| !mood.stalled).await);
            // What comes behind something that was lost on this stream is lost, too.
            frozen |= mood.borrow().frozen;
            if frozen {
                self.told.send_modify(|told| told.swallowed += request.commands.len());
                continue;
            }
            let mut all = Vec::new();
            for command in request.commands {
                all.extend(self.take(command, &mut refused));
            }
            if replies.send(ConverseResponse { replies: all }).await.is_err() {
                return;
            }
        }
    }

    fn take(&self, command: Command, refused: &mut HashMap<(u64, u64), u32>) -> Option<Reply> {
        let Command { session, call, generation, action } = command;
        let chat = match action.as_ref()? {
            Action::Send(send) => send.chat_id,
            Action::Mark(mark) => mark.chat_id,
            Action::Typing(typing) => typing.chat_id,
        };
        let owner = self.truth.lock().expect("no panic")[usize::from(Shard::of_chat(ChatId(chat)).0 % 2)];
        let reply = |outcome| Some(Reply { session, call, outcome: Some(outcome) });
        match action? {
            Action::Send(_) => {
                let lane = (session, chat);
                if owner != self.name || refused.get(&lane).is_some_and(|refused| generation <= *refused) {
                    let highest = refused.entry(lane).or_default();
                    *highest = generation.max(*highest);
                    self.told.send_modify(|told| {
                        told.refused.insert((self.name, chat));
                    });
                    return reply(not_owner());
                }
                refused.remove(&lane);
                self.told.send_modify(|told| {
                    if !told.log.iter().any(|(_, of, known)| (*of, *known) == (chat, call)) {
                        told.log.push((self.name, chat, call));
                    }
                });
                reply(pb::reply::Outcome::Accepted(pb::Accepted { chat_id: chat, ..pb::Accepted::default() }))
            }
            Action::Mark(_) | Action::Typing(_) if owner != self.name => reply(not_owner()),
            Action::Typing(_) => None,
            Action::Mark(mark) => {
                self.told.send_modify(|told| told.marks.push((self.name, chat, mark.delivered)));
                None
            }
        }
    }
}

fn not_owner() -> pb::reply::Outcome {
    pb::reply::Outcome::Refused(pb::Refused { code: "NOT_OWNER".to_owned(), ..pb::Refused::default() })
}

/// What an edge's streams don't ask.
macro_rules! not_asked {
    ($($method:ident: $request:ident -> $response:ident),* $(,)?) => {
        #[tonic::async_trait]
        impl MessageService for Instance {
            type ConverseStream = Streamed<ConverseResponse>;
            type WatchShardsStream = Streamed<WatchShardsResponse>;

            async fn converse(
                &self,
                request: Request<Streaming<ConverseRequest>>,
            ) -> Result<Response<Self::ConverseStream>, Status> {
                let (replies, queue) = mpsc::channel(1_024);
                let to = request.metadata().get(RELAY_TO).map(|to| to.to_str().expect("an address").to_owned());
                let serves = match to {
                    Some(to) => {
                        let other = self.others.iter().find(|other| other.name == to).expect("known");
                        self.told.send_modify(|told| told.relayed.push((self.name, other.name)));
                        other
                    }
                    None => self,
                };
                tokio::spawn(serves.clone().run(request.into_inner(), replies));
                let mut mood = self.mood.clone();
                let before = mood.borrow_and_update().cuts;
                let cut = async move { mood.wait_for(|mood| mood.cuts != before).await.is_ok() };
                Ok(Response::new(Box::pin(ReceiverStream::new(queue).map(Ok).take_until(Box::pin(cut)))))
            }

            async fn watch_shards(
                &self,
                _request: Request<pb::WatchShardsRequest>,
            ) -> Result<Response<Self::WatchShardsStream>, Status> {
                Ok(Response::new(Box::pin(WatchStream::new(self.map.clone()).map(Ok))))
            }

            type WatchChatStream = ReceiverStream<Result<pb::WatchChatResponse, Status>>;

            async fn watch_chat(
                &self,
                _request: Request<pb::WatchChatRequest>,
            ) -> Result<Response<Self::WatchChatStream>, Status> {
                Err(Status::unimplemented("not asked by the edge"))
            }

            $(async fn $method(&self, _: Request<pb::$request>) -> Result<Response<pb::$response>, Status> {
                Err(Status::unimplemented("not asked by the edge's streams"))
            })*
        }
    };
}

not_asked! {
    send_message: SendMessageRequest -> SendMessageResponse,
    mark: MarkRequest -> MarkResponse,
    send_typing: SendTypingRequest -> SendTypingResponse,
    list_messages: ListMessagesRequest -> ListMessagesResponse,
    sync: SyncRequest -> SyncResponse,
    create_chat: CreateChatRequest -> CreateChatResponse,
    get_chat: GetChatRequest -> GetChatResponse,
    list_chats: ListChatsRequest -> ListChatsResponse,
    add_members: AddMembersRequest -> AddMembersResponse,
    remove_members: RemoveMembersRequest -> RemoveMembersResponse,
    set_role: SetRoleRequest -> SetRoleResponse,
    rename_chat: RenameChatRequest -> RenameChatResponse,
    delete_chat: DeleteChatRequest -> DeleteChatResponse,
    list_members: ListMembersRequest -> ListMembersResponse,
    list_receipts: ListReceiptsRequest -> ListReceiptsResponse,
    filter_acquainted: FilterAcquaintedRequest -> FilterAcquaintedResponse,
    get_settings: GetSettingsRequest -> GetSettingsResponse,
    update_settings: UpdateSettingsRequest -> UpdateSettingsResponse,
    list_blocks: ListBlocksRequest -> ListBlocksResponse,
    set_block: SetBlockRequest -> SetBlockResponse,
    set_mute: SetMuteRequest -> SetMuteResponse,
    filter_visible: FilterVisibleRequest -> FilterVisibleResponse,
    apply_block: ApplyBlockRequest -> ApplyBlockResponse,
    erase_user: EraseUserRequest -> EraseUserResponse,
    erase_in_chat: EraseInChatRequest -> EraseInChatResponse,
    expire_chat: ExpireChatRequest -> ExpireChatResponse,
    view_chats: ViewChatsRequest -> ViewChatsResponse,
    notice_shards: NoticeShardsRequest -> NoticeShardsResponse,
}
