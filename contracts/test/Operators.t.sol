// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IRegistry, OperatorId} from "../src/interfaces/IRegistry.sol";
import {BLS12381} from "../src/libraries/BLS12381.sol";
import {Base} from "./helpers/Base.sol";
import {Bls} from "./helpers/Bls.sol";

/// @notice Registering, staking, leaving.
contract OperatorsTest is Base {
    function test_a_registered_node_is_listed_with_its_stake() public {
        OperatorId id = addNode(1);
        IRegistry.OperatorView memory node = lens.operator(id);
        vm.assertTrue(node.active, "active");
        vm.assertEq(node.stake, NODE_STAKE, "stake");
        vm.assertEq(bytes(node.endpoint), bytes("127.0.0.1:4001"), "endpoint");
        vm.assertEq(OperatorId.unwrap(lens.nodes(0, 10)[0].id), OperatorId.unwrap(id), "listed");
        vm.assertEq(lens.nodes(1, 10).length, 0, "no more");
        assertConserved();
    }

    function test_nobody_can_register_a_key_that_did_not_agree_to_it() public {
        fund(owner(1), 1000 * CREDIT);
        bytes memory forAnother = consent(1001, owner(2));
        vm.prank(owner(1));
        vm.expectRevert();
        registry.registerNode(vm.addr(1001), NODE_STAKE, 1, "", forAnother);
    }

    function test_a_consent_of_another_chain_is_worthless() public {
        fund(owner(1), 1000 * CREDIT);
        bytes memory agreed = consent(1001, owner(1));
        vm.chainId(5);
        vm.prank(owner(1));
        vm.expectRevert();
        registry.registerNode(vm.addr(1001), NODE_STAKE, 1, "", agreed);
    }

    function test_a_key_belongs_to_one_operator_for_ever() public {
        OperatorId id = addNode(1);
        bytes memory agreed = consent(1001, owner(1));
        vm.prank(owner(1));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.KeyTaken.selector, vm.addr(1001), id));
        registry.registerNode(vm.addr(1001), NODE_STAKE, 1, "", agreed);
    }

    function test_a_rotated_key_keeps_the_operator_and_an_old_one_is_dead() public {
        OperatorId id = addNode(1);
        bytes memory agreed = consent(5555, owner(1));
        vm.prank(owner(2));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NotOwner.selector, id, owner(2), owner(1)));
        registry.rotateKey(id, vm.addr(5555), agreed);
        vm.prank(owner(1));
        registry.rotateKey(id, vm.addr(5555), agreed);
        vm.assertTrue(registry.operatorState(id).key == vm.addr(5555), "new key");
        bytes memory old = consent(1001, owner(1));
        vm.prank(owner(1));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.KeyTaken.selector, vm.addr(1001), id));
        registry.rotateKey(id, vm.addr(1001), old);
    }

    function test_owner_and_hot_key_set_the_endpoint_and_nobody_else() public {
        OperatorId id = addNode(1);
        vm.prank(vm.addr(1001));
        registry.setEndpoint(id, "[::1]:9");
        vm.prank(owner(1));
        registry.setEndpoint(id, "[::1]:10");
        vm.assertEq(bytes(registry.endpointOf(id)), bytes("[::1]:10"), "endpoint");
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NotOwner.selector, id, address(this), owner(1)));
        registry.setEndpoint(id, "");
        vm.prank(owner(1));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.EndpointTooLong.selector, 129, 128));
        registry.setEndpoint(id, string(new bytes(129)));
    }

    function testFuzz_stake_below_what_the_operators_need_is_refused(uint96 stake) public {
        vm.assume(stake < NODE_STAKE);
        fund(owner(1), 1000 * CREDIT);
        bytes memory agreed = consent(1001, owner(1));
        vm.prank(owner(1));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.StakeTooLow.selector, owner(1), stake, NODE_STAKE));
        registry.registerNode(vm.addr(1001), stake, 1, "", agreed);
    }

    function testFuzz_added_stake_leaves_after_the_delay_and_never_before(uint96 amount, uint40 wait) public {
        amount = uint96(amount % (900 * CREDIT)) + 1;
        wait = wait % 4 days;
        addNode(1);
        vm.prank(owner(1));
        registry.addStake(amount);
        vm.prank(owner(1));
        vm.expectRevert(
            abi.encodeWithSelector(
                IRegistry.StakeTooLow.selector, owner(1), NODE_STAKE + amount, uint256(NODE_STAKE) + amount + 1
            )
        );
        registry.requestUnstake(amount + 1);
        vm.prank(owner(1));
        registry.requestUnstake(amount);
        assertConserved();
        uint256 before = credit.balanceOf(owner(1));
        uint256 release = vm.getBlockTimestamp() + UNSTAKE_DELAY;
        later(wait);
        vm.prank(owner(1));
        if (wait < UNSTAKE_DELAY) {
            vm.expectRevert(abi.encodeWithSelector(IRegistry.StillBonded.selector, owner(1), release));
        }
        registry.withdraw();
        vm.assertEq(credit.balanceOf(owner(1)) - before, wait < UNSTAKE_DELAY ? 0 : amount, "withdrawn");
        assertConserved();
    }

    function test_there_is_nothing_to_withdraw_before_a_request() public {
        addNode(1);
        vm.prank(owner(1));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NothingToWithdraw.selector, owner(1)));
        registry.withdraw();
    }

    function test_a_node_retires_unstakes_and_comes_back_with_its_number() public {
        OperatorId first = addNode(1);
        OperatorId second = addNode(2);
        vm.prank(owner(2));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.StillBacked.selector, first));
        registry.retire(first);
        vm.prank(owner(1));
        registry.retire(first);
        vm.assertTrue(!lens.operator(first).active, "retired");
        vm.assertEq(OperatorId.unwrap(lens.nodes(0, 10)[0].id), OperatorId.unwrap(second), "moved up");
        vm.prank(owner(1));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NotListed.selector, first));
        registry.retire(first);
        vm.prank(owner(1));
        registry.requestUnstake(NODE_STAKE);
        OperatorId again = listNode(1, 1, NODE_STAKE, 1);
        vm.assertEq(OperatorId.unwrap(again), OperatorId.unwrap(first), "same number");
        assertConserved();
    }

    function test_an_owner_has_at_most_255_nodes() public {
        fund(owner(1), 30_000 * CREDIT);
        for (uint256 key = 0; key < 255; ++key) {
            listNode(1, 10_000 + key, NODE_STAKE, 1);
        }
        bytes memory agreed = consent(1001, owner(1));
        vm.prank(owner(1));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.TooManyOperators.selector, owner(1)));
        registry.registerNode(vm.addr(1001), NODE_STAKE, 1, "", agreed);
        vm.assertEq(registry.benchLength(0), 1, "and one place on a bench");
    }

    // --------------------------------------------------------------------------------------------- verifiers

    function test_a_verifier_proves_its_key() public {
        OperatorId id = addVerifier(1);
        IRegistry.VerifierView[] memory set = lens.verifiers(0, 256);
        vm.assertEq(OperatorId.unwrap(set[0].id), OperatorId.unwrap(id), "listed");
        vm.assertEq(set[0].publicKey, Bls.publicKey(3001), "key");
        vm.assertEq(registry.seats(), 1, "slot");
        vm.assertEq(lens.verifiers(1, 300).length, 0, "no other");
    }

    function test_an_owner_has_one_verifier() public {
        addVerifier(1);
        fund(owner(1), 2000 * CREDIT);
        bytes memory agreed = consent(2002, owner(1));
        bytes memory proof = possession(2, owner(1));
        bytes memory key = Bls.publicKey(3002);
        vm.prank(owner(1));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.TooManyOperators.selector, owner(1)));
        registry.registerVerifier(vm.addr(2002), VERIFIER_STAKE, "", agreed, key, proof);
    }

    function test_a_rogue_key_without_its_secret_is_refused() public {
        fund(owner(2), 2000 * CREDIT);
        bytes memory agreed = consent(2002, owner(2));
        // The key that would cancel verifier 1's: its owner does not know the secret of the difference.
        bytes memory rogue = BLS12381.unpack(
            BLS12381.add(BLS12381.pack(Bls.publicKey(77)), BLS12381.negate(BLS12381.pack(Bls.publicKey(3001))))
        );
        bytes memory proof = possession(2, owner(2));
        vm.prank(owner(2));
        vm.expectRevert(IRegistry.BadPossessionProof.selector);
        registry.registerVerifier(vm.addr(2002), VERIFIER_STAKE, "", agreed, rogue, proof);
    }

    function test_a_proof_copied_by_another_owner_is_refused() public {
        fund(owner(2), 2000 * CREDIT);
        bytes memory proof = possession(1, owner(1));
        bytes memory agreed = consent(2001, owner(2));
        bytes memory key = Bls.publicKey(3001);
        vm.prank(owner(2));
        vm.expectRevert(IRegistry.BadPossessionProof.selector);
        registry.registerVerifier(vm.addr(2001), VERIFIER_STAKE, "", agreed, key, proof);
    }

    function test_the_identity_is_no_key_and_no_proof() public {
        fund(owner(1), 2000 * CREDIT);
        bytes memory agreed = consent(2001, owner(1));
        vm.prank(owner(1));
        vm.expectRevert(IRegistry.BadPossessionProof.selector);
        registry.registerVerifier(vm.addr(2001), VERIFIER_STAKE, "", agreed, new bytes(128), new bytes(256));
        vm.prank(owner(1));
        vm.expectRevert(IRegistry.BadPublicKey.selector);
        registry.registerVerifier(vm.addr(2001), VERIFIER_STAKE, "", agreed, new bytes(48), new bytes(256));
    }

    function testFuzz_a_key_off_the_curve_is_refused(bytes32 noise) public {
        fund(owner(1), 2000 * CREDIT);
        bytes memory key = Bls.publicKey(3001);
        assembly {
            mstore(add(key, 0x80), noise)
        }
        vm.assume(keccak256(key) != keccak256(Bls.publicKey(3001)));
        bytes memory agreed = consent(2001, owner(1));
        bytes memory proof = possession(1, owner(1));
        vm.prank(owner(1));
        vm.expectRevert(IRegistry.BadPossessionProof.selector);
        registry.registerVerifier(vm.addr(2001), VERIFIER_STAKE, "", agreed, key, proof);
    }
}
